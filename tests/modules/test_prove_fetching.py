"""A proof downloads only the needed tensors of the commit: from shards, by ranges, or from the cache."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import Counter

import pytest
import safetensors.numpy

from optimum_htp import extract_module
from optimum_htp.errors import InvalidWeightsError, OfflineError, UnprovableWeightsError
from optimum_htp.hubs import HubAccess
from optimum_htp.modules.prove import prove_weights
from tests.support.changed_weights import QUERY


def test_check_outlives_the_addresses_of_the_weights(zoo_export, hub, access):
    made, asked = zoo_export("t5"), itertools.count(1)

    def expire(method, path):
        if path.endswith(".safetensors") and next(asked) in (4, 20):
            hub.expire_addresses()

    hub.before_answer = expire
    with hub.recorded() as requests:
        assert not prove_weights(made.output / "encoder_model.onnx", access=access).foreign
    assert [request.status for request in requests].count(403) >= 1


def test_check_takes_longer_than_an_address_is_valid(zoo_export, hub, access):
    path = zoo_export("t5").output / "encoder_model.onnx"
    hub.address_lives, one_by_one = 1.2, threading.Lock()

    def slowly(method, path):
        if method == "GET" and path.endswith(".safetensors"):
            with one_by_one:
                time.sleep(0.1)

    hub.before_answer = slowly
    began = time.monotonic()
    with hub.recorded() as requests:
        assert not prove_weights(path, access=access).foreign
    assert time.monotonic() - began > 2 * hub.address_lives
    assert [request.status for request in requests].count(403) >= 2


@pytest.fixture
def sharded(bert, hub):
    """The repo of a model with many shards of few tensors, and the shard of each tensor."""
    _, folder = bert
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    tensors = safetensors.numpy.load(files.pop("model.safetensors"))
    homes = {key: f"model-{at // 2 + 1:05}-of-00099.safetensors" for at, key in enumerate(sorted(tensors))}
    for shard in {*homes.values()}:
        files[shard] = safetensors.numpy.save({key: tensors[key] for key, home in homes.items() if home == shard})
    files["model.safetensors.index.json"] = json.dumps({"metadata": {}, "weight_map": homes}).encode()
    return hub.add("tiny/sharded", files), homes


def test_shards_are_opened_when_they_are_needed(bert, hub, sharded, access):
    repo, homes = sharded
    opened = []

    def count(done, total):
        opened.append(len({request.path for request in hub.requests[start:] if request.path.endswith(".safetensors")}))

    start = len(hub.requests)
    assert not prove_weights(bert[0], repo.repo_id, access=access, progress=count).foreign
    assert opened[0] < len({*homes.values()}) == opened[-1]


def test_only_the_shards_that_a_file_needs_are_opened_and_each_once(bert, hub, sharded, access, tmp_path):
    repo, homes = sharded
    extract_module(bert[0], "bert.encoder.layer.1", tmp_path / "layer.onnx")
    with hub.recorded() as requests:
        proof = prove_weights(tmp_path / "layer.onnx", repo.repo_id, access=access)
    assert not proof.foreign
    needed = {homes[key] for finding in proof.findings for key in finding.tensors}
    asked = Counter((one.method, name) for one in requests if (name := one.path.rpartition("/")[2]) in homes.values())
    assert asked == Counter((method, name) for method in ("HEAD", "GET") for name in needed)
    assert 0 < len(needed) < len({*homes.values()}) / 2


def test_shard_that_differs_from_its_index_is_reported(bert, hub, sharded, access):
    repo, homes = sharded
    files = dict(repo.commits[repo.refs["main"]])
    one = homes[f"{QUERY.format(1)}.weight"]
    files[one] = files[homes["bert.embeddings.word_embeddings.weight"]]
    repo.commit(files)
    with pytest.raises(InvalidWeightsError, match=f"{one} of tiny/sharded has no tensor .*the index lists it"):
        prove_weights(bert[0], repo.repo_id, access=access)


def test_weights_are_downloaded_without_range_support(zoo_export, hub, access):
    hub.serve_ranges = False
    assert not prove_weights(zoo_export("t5").output / "encoder_model.onnx", access=access).foreign
    assert [*access.cache_dir.rglob("*.safetensors")]


def test_only_the_tensors_that_are_needed_are_fetched(zoo_export, hub, access, tmp_path):
    """A part of a model downloads its own tensors only; the whole file is never requested."""
    made = zoo_export("t5")
    size = (made.model / "model.safetensors").stat().st_size
    with hub.recorded() as requests:
        proof = prove_weights(made.output / "encoder_model.onnx", access=access)
    assert not proof.foreign
    assert {request.status for request in requests if request.path.endswith(".safetensors")} == {302, 206}
    assert proof.fetched < size
    assert not list(access.cache_dir.rglob("*.safetensors"))


def test_weights_in_the_cache_are_not_fetched(zoo_export, hub, access):
    made = zoo_export("bert")
    from huggingface_hub import snapshot_download

    snapshot_download("zoo/bert", cache_dir=access.cache_dir)
    with hub.recorded() as requests:
        offline = HubAccess(cache_dir=access.cache_dir, local_files_only=True)
        proof = prove_weights(made.output / "model.onnx", access=offline)
    assert (proof.foreign, proof.fetched, requests) == ((), 0, [])


def test_offline_without_the_cache_is_reported(zoo_export, access):
    offline = HubAccess(cache_dir=access.cache_dir, local_files_only=True)
    with pytest.raises(OfflineError):
        prove_weights(zoo_export("bert").output / "model.onnx", access=offline)


def test_sharded_checkpoint(zoo_export, hub, access, tmp_path):
    from transformers import AutoModelForMaskedLM

    made = zoo_export("bert")
    AutoModelForMaskedLM.from_pretrained(made.model).save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert (tmp_path / "sharded" / "model.safetensors.index.json").is_file()
    hub.add("tiny/sharded", tmp_path / "sharded")
    proof = prove_weights(made.output / "model.onnx", "tiny/sharded", access=access)
    assert not proof.foreign
    assert proof.counts["proven"] >= 40


def test_pickle_is_neither_fetched_nor_run(zoo_export, hub, access):
    made = zoo_export("bert")
    files = {"config.json": (made.model / "config.json").read_bytes(), "pytorch_model.bin": b"a pickle"}
    hub.add("tiny/pickled", files)
    with hub.recorded() as requests, pytest.raises(UnprovableWeightsError, match="pickle"):
        prove_weights(made.output / "model.onnx", "tiny/pickled", access=access)
    assert not any("pytorch_model.bin" in request.path for request in requests)
