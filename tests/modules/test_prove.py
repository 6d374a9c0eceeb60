"""Weights are held against the commit's own tensors: what was changed or exchanged is found, and little is fetched."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
import time
from collections import Counter

import numpy as np
import onnx
import onnx.numpy_helper as nh
import pytest
import safetensors.numpy
import transformers
from safetensors import safe_open

from optimum_htp import extract_module, inject_hub_metadata
from optimum_htp.errors import InvalidWeightsError, OfflineError, UnprovableWeightsError
from optimum_htp.hubs import HubAccess
from optimum_htp.libraries.dependencies import has_transformers_exporters
from optimum_htp.modules.prove import prove_weights
from tests.conftest import optimum_cli
from tests.support.zoo import ZOO

QUERY = "bert.encoder.layer.{}.attention.self.query"


def changed(path, target, change):
    """Save a file with its initializers changed: `change` is given them as writable arrays, by name."""
    model = onnx.load(path)
    arrays = {tensor.name: nh.to_array(tensor).copy() for tensor in model.graph.initializer}
    change(arrays, model)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(nh.from_array(arrays[tensor.name], tensor.name))
    onnx.save(model, target)
    return target


def weight_of(model, module, position=1):
    """Return the name of the weight that a module's node uses."""
    nodes = [
        node
        for node in model.graph.node
        for prop in node.metadata_props
        if prop.key == "htp.module" and prop.value == module and node.op_type in ("MatMul", "Gemm", "Conv")
    ]
    return nodes[0].input[position]


@pytest.fixture
def bert(zoo_export):
    made = zoo_export("bert")
    return made.output / "model.onnx", made.model


def names_are_the_models(name, folder):
    """Whether transformers calls the tensors as the checkpoint does: it may read one with other names."""
    model = getattr(transformers, ZOO[name].model).from_pretrained(folder)
    with safe_open(folder / "model.safetensors", "pt") as checkpoint:
        return {*checkpoint.keys()} <= model.state_dict().keys()


@pytest.mark.parametrize("name", sorted(ZOO))
def test_every_weight_of_a_clean_export_is_from_its_commit(name, zoo_export):
    made = zoo_export(name)
    for path in made.output.rglob("*.onnx"):
        proof = prove_weights(path, made.model)
        assert not proof.foreign
        weights = [finding for finding in proof.findings if finding.evidence.value in ("proven", "derived")]
        assert len(weights) >= 10
        if names_are_the_models(name, made.model):
            assert sum(finding.by_value for finding in weights) <= len(weights) // 3  # of others the place was known


def test_one_changed_float_is_found_and_named(bert, tmp_path):
    path, folder = bert
    name = weight_of(onnx.load(path), QUERY.format(1))

    def change(arrays, model):
        arrays[name][3, 5] = np.nextafter(arrays[name][3, 5], np.float32(9))

    proof = prove_weights(changed(path, tmp_path / "m.onnx", change), folder)
    (finding,) = proof.foreign
    assert finding.name == name
    assert finding.module == QUERY.format(1)
    assert f"element {5 * 32 + 3} of {QUERY.format(1)}.weight" in finding.how  # the checkpoint's is transposed
    assert proof.modules["bert.encoder.layer.1"].value == "foreign"
    assert proof.modules["bert.encoder.layer.0"].value == "proven"


@pytest.mark.parametrize("position", ["content", "wiring"])
def test_exchanged_layers_are_found(bert, tmp_path, position):
    path, folder = bert
    model = onnx.load(path)
    one, other = (weight_of(model, QUERY.format(layer)) for layer in (0, 1))

    def change(arrays, model):
        if position == "content":
            arrays[one][:], arrays[other][:] = arrays[other].copy(), arrays[one].copy()
            return
        for node in model.graph.node:
            for at, value in enumerate(node.input):
                if value in (one, other):
                    node.input[at] = other if value == one else one

    proof = prove_weights(changed(path, tmp_path / "m.onnx", change), folder)
    assert {finding.name for finding in proof.foreign} == {one, other}
    assert all("place of" in finding.how for finding in proof.foreign)


def test_exchanged_vectors_of_one_module_are_found(bert, tmp_path):
    path, folder = bert
    norm = "bert.encoder.layer.0.output.LayerNorm"

    def change(arrays, model):
        arrays[f"{norm}.weight"], arrays[f"{norm}.bias"] = arrays[f"{norm}.bias"], arrays[f"{norm}.weight"]

    proof = prove_weights(changed(path, tmp_path / "m.onnx", change), folder)
    assert {finding.name for finding in proof.foreign} == {f"{norm}.weight", f"{norm}.bias"}


@pytest.mark.skipif(not has_transformers_exporters(), reason="transformers 4 has two tensors for them")
def test_exchanged_projections_of_an_expert_in_one_tensor_are_found(zoo_export, tmp_path):
    made = zoo_export("qwen3_moe")
    path = next(made.output.rglob("*.onnx"))
    name = next(finding.name for finding in prove_weights(path, made.model).findings if finding.how == "put together")

    def change(arrays, model):
        arrays[name][:] = np.roll(arrays[name], arrays[name].shape[1] // 2, axis=1)

    proof = prove_weights(changed(path, tmp_path / "m.onnx", change), made.model)
    assert [finding.name for finding in proof.foreign] == [name]


def test_weight_that_was_wiped_is_no_constant(bert, tmp_path):
    path, folder = bert

    def change(arrays, model):
        arrays[f"{QUERY.format(0)}.bias"][:] = 0

    assert len(prove_weights(changed(path, tmp_path / "m.onnx", change), folder).foreign) == 1


def test_file_without_tags_is_matched_by_value(bert, tmp_path):
    path, folder = bert

    def change(arrays, model):
        for node in model.graph.node:
            del node.metadata_props[:]
            node.name = ""
        del model.metadata_props[:]

    bare = changed(path, tmp_path / "m.onnx", change)
    proof = prove_weights(bare, folder)
    assert not proof.foreign
    assert not proof.unchecked  # they are in the order in which the model's code uses them
    assert not proof.tagged
    assert any(finding.by_value for finding in proof.findings)

    def spoil(arrays, model):
        change(arrays, model)
        arrays[weight_of(onnx.load(path), QUERY.format(1))][0, 0] += 1

    assert len(prove_weights(changed(path, tmp_path / "n.onnx", spoil), folder).foreign) == 1


def test_weights_in_half_precision_are_derived(bert, tmp_path):
    path, folder = bert

    def change(arrays, model):
        for name, array in arrays.items():
            if array.dtype == np.float32:
                arrays[name] = array.astype(np.float16)

    half = changed(path, tmp_path / "m.onnx", change)
    proof = prove_weights(half, folder)
    assert (proof.counts["foreign"], proof.counts["proven"]) == (0, 0)
    assert {finding.how for finding in proof.findings if finding.evidence.value == "derived"} == {
        "cast",
        "cast, transposed",
    }


def test_weights_in_other_forms_are_looked_at(bert, tmp_path):
    """A weight as the numbers of a Constant, or as a sparse tensor, is a weight."""
    path, folder = bert
    for form in ("value_floats", "sparse_value", "sparse_initializer"):
        for spoilt in (False, True):
            model = onnx.load(path)
            kind = "bias" if form == "value_floats" else "weight"  # the numbers of a Constant have one axis
            name = f"{QUERY.format(1)}.bias" if kind == "bias" else weight_of(model, QUERY.format(1))
            move(model, name, form, 0.5 if spoilt else 0.0)
            target = tmp_path / f"{form}{spoilt}.onnx"
            onnx.save(model, target)
            proof = prove_weights(target, folder)
            found = [finding for finding in proof.findings if f"{QUERY.format(1)}.{kind}" in finding.tensors]
            assert [finding.evidence.value for finding in found] == ["foreign" if spoilt else "proven"], form
            assert len(proof.foreign) == spoilt


def move(model, name, form, more):
    """Write an initializer in another form, its first element changed by so much."""
    (tensor,) = [one for one in model.graph.initializer if one.name == name]
    array = nh.to_array(tensor).copy()
    array.flat[0] += more
    model.graph.initializer.remove(tensor)
    flat = onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, [array.size], array.reshape(-1))
    places = onnx.helper.make_tensor("", onnx.TensorProto.INT64, [array.size], range(array.size))
    sparse = onnx.helper.make_sparse_tensor(flat, places, array.shape)
    if form == "sparse_initializer":
        model.graph.sparse_initializer.append(sparse)
    elif form == "sparse_value":
        model.graph.node.insert(0, onnx.helper.make_node("Constant", [], [name], sparse_value=sparse))
    else:
        model.graph.node.insert(0, onnx.helper.make_node("Constant", [], [name], value_floats=array))


def test_folded_batch_norm_that_was_changed_is_found(zoo_export, tmp_path):
    made = zoo_export("resnet")
    path = made.output / "model.onnx"
    name = weight_of(onnx.load(path), "resnet.embedder.embedder.convolution")

    def change(arrays, model):
        arrays[name].reshape(-1)[11] *= 1.001

    assert any(f.name == name for f in prove_weights(changed(path, tmp_path / "m.onnx", change), made.model).foreign)


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
    """The repo of a model in many shards of few tensors, and the shard of each tensor."""
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


def test_shard_that_is_not_as_its_index_says_is_reported(bert, hub, sharded, access):
    repo, homes = sharded
    files = dict(repo.commits[repo.refs["main"]])
    one = homes[f"{QUERY.format(1)}.weight"]
    files[one] = files[homes["bert.embeddings.word_embeddings.weight"]]
    repo.commit(files)
    with pytest.raises(InvalidWeightsError, match=f"{one} of tiny/sharded has no tensor .*its index says"):
        prove_weights(bert[0], repo.repo_id, access=access)


def test_weights_are_downloaded_where_ranges_are_not_served(zoo_export, hub, access):
    hub.serve_ranges = False
    assert not prove_weights(zoo_export("t5").output / "encoder_model.onnx", access=access).foreign
    assert [*access.cache_dir.rglob("*.safetensors")]


def test_only_the_tensors_that_are_needed_are_fetched(zoo_export, hub, access, tmp_path):
    """A part of a model takes its own tensors alone; the whole file is never asked for."""
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


def test_offline_without_the_cache_says_so(zoo_export, access):
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


def test_command_says_it_of_files_of_anybody(bert, plain_bert, access, tmp_path, empty_home):
    """One run for all: a clean file, a changed one, and one that Optimum exported and somebody else stamped."""
    path, _ = bert

    def change(arrays, model):
        arrays[weight_of(model, QUERY.format(1))][0, 0] += 1

    clean = shutil.copy(path, tmp_path / "clean.onnx")
    bad = changed(path, tmp_path / "bad.onnx", change)
    inject_hub_metadata(plain_bert, "tiny/bert", access=access)
    done = optimum_cli("htp", "verify", "--weights", "--json", clean, bad, plain_bert, check=False, **empty_home)
    assert done.returncode == 3, done.stderr
    documents = json.loads(done.stdout)["files"]
    assert [one["weights"]["counts"]["foreign"] for one in documents] == [0, 1, 0]
    assert documents[1]["weights"]["modules"]["bert.encoder.layer.1"] == "foreign"
    text = optimum_cli("htp", "verify", "--weights", bad, check=False, **empty_home)
    assert text.returncode == 3
    assert "NOT FROM THIS COMMIT" in text.stderr
    assert "bert.encoder.layer.1.attention.self.query" in text.stderr


def test_export_records_digests_that_tell_when_the_repos_file_changed(zoo_export, hub, access, plain_bert):
    import hashlib

    from optimum_htp import verify_metadata

    record = inject_hub_metadata(plain_bert, "tiny/bert", access=access)
    repo = hub.repos["tiny/bert"]
    files = repo.commits[repo.refs["main"]]
    assert record.weight_files == {"model.safetensors": hashlib.sha256(files["model.safetensors"]).hexdigest()}
    assert verify_metadata(plain_bert, access).status.name == "OK"
    repo.commits = {**repo.commits, repo.refs["main"]: {**files, "model.safetensors": b"other"}}
    verdict = verify_metadata(plain_bert, access)
    assert verdict.status.name == "MISFIT"
    assert "was replaced" in verdict.reason
