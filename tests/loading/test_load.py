"""ORTModelForX.from_pretrained on a file: the selected config, and the requests to the Hub."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
from optimum.onnxruntime import (
    ORTModelForSequenceClassification,
)

from optimum_htp.errors import (
    OptimumHTPError,
    RevisionNotFoundError,
)
from optimum_htp.metadata import ExportMetadata
from optimum_htp.onnxfile import read_metadata, rewrite_model
from tests.conftest import run_python
from tests.support.loads import LABELS, load, logits, without_record

pytestmark = pytest.mark.usefixtures("from_the_commit")


def test_file_is_loaded_in_place_with_the_config_of_its_commit(bert_file, cache, hub):
    with hub.recorded() as requests:
        model = load(bert_file, cache_dir=cache)
    assert type(model) is ORTModelForSequenceClassification
    assert model.config.id2label == LABELS
    assert Path(model.session._model_path) == bert_file
    assert logits(model).shape == (1, 3)
    methods = {}
    for request in requests:
        methods.setdefault(request.path.rpartition("/")[2], []).append(request.method)
    record = ExportMetadata.from_properties(read_metadata(bert_file))
    assert methods == {name: ["GET"] for name in record.config_files}


def test_second_load_makes_no_request(bert_file, cache, hub):
    load(bert_file, cache_dir=cache)
    with hub.recorded() as requests:
        load(bert_file, cache_dir=cache)
        load(bert_file, cache_dir=cache, local_files_only=True)
    assert requests == []


def test_path_can_be_text_or_path_absolute_or_relative(bert_file, cache, monkeypatch):
    monkeypatch.chdir(bert_file.parent)
    for path in (str(bert_file), bert_file.name, Path(bert_file.name), Path("..") / "shipped" / bert_file.name):
        assert load(path, cache_dir=cache).config.id2label == LABELS
    assert ORTModelForSequenceClassification.from_pretrained(model_id=str(bert_file), cache_dir=cache)


def test_link_to_a_file_is_loaded(bert_file, cache, tmp_path):
    (tmp_path / "link.onnx").symlink_to(bert_file)
    assert load(tmp_path / "link.onnx", cache_dir=cache).config.id2label == LABELS


def test_pinned_commit_survives_a_moved_branch(hub, exported, bert_file, cache):
    repo = hub.repos["tiny/bert"]
    before = repo.refs["main"]
    files = dict(repo.commits[before])
    config = json.loads(files["config.json"])
    config["id2label"] = {str(index): f"MOVED {index}" for index in range(3)}
    config["label2id"] = {f"MOVED {index}": index for index in range(3)}
    files["config.json"] = json.dumps(config).encode()
    repo.commit(files)
    try:
        assert load(bert_file, cache_dir=cache).config.id2label == LABELS
    finally:
        repo.refs["main"] = before


def test_revision_overrides_the_pin_with_a_warning(hub, exported, bert_file, cache, caplog):
    repo = hub.repos["tiny/bert"]
    before = repo.refs["main"]
    files = dict(repo.commits[before])
    config = json.loads(files["config.json"])
    config["id2label"], config["label2id"] = {str(i): f"NEW {i}" for i in range(3)}, {f"NEW {i}": i for i in range(3)}
    repo.commit({**files, "config.json": json.dumps(config).encode()}, "newer")
    with caplog.at_level(logging.WARNING):
        model = load(bert_file, cache_dir=cache, revision="newer")
    assert model.config.id2label[0] == "NEW 0"
    assert "newer" in caplog.text
    caplog.clear()
    assert load(bert_file, cache_dir=cache, revision=None).config.id2label == LABELS
    assert load(bert_file, cache_dir=cache, revision=before).config.id2label == LABELS
    assert "overrides" not in caplog.text
    with pytest.raises(RevisionNotFoundError, match="no-such"):
        load(bert_file, cache_dir=cache, revision="no-such")


def test_own_adjacent_config_of_a_hub_file_is_used(bert_file, model_folder, cache, hub):
    config = json.loads((model_folder("bert") / "config.json").read_text())
    config["id2label"] = {"0": "good", "1": "bad", "2": "ugly"}
    (bert_file.parent / "config.json").write_text(json.dumps(config))
    with hub.recorded() as requests:
        assert load(bert_file, cache_dir=cache).config.id2label == {0: "good", 1: "bad", 2: "ugly"}
    assert requests == []


@pytest.mark.parametrize("other_config", ["other type", "other labels", "not json", "not an object"])
def test_adjacent_config_of_another_model_is_ignored_with_a_warning(
    bert_file, model_folder, cache, caplog, other_config
):
    config = json.loads((model_folder("bert") / "config.json").read_text())
    if other_config == "other labels":
        config["id2label"] = {str(index): str(index) for index in range(9)}
    text = {
        "other type": (model_folder("gpt2") / "config.json").read_text(),
        "other labels": json.dumps(config),
        "not json": "{",
        "not an object": "[]",
    }[other_config]
    (bert_file.parent / "config.json").write_text(text)
    with caplog.at_level(logging.WARNING):
        assert load(bert_file, cache_dir=cache).config.id2label == LABELS
    assert "config.json is not used" in caplog.text


def test_given_config_is_used_without_a_request(bert_file, cache, hub, model_folder):
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model_folder("bert"), id2label={0: "a", 1: "b", 2: "c"})
    with hub.recorded() as requests:
        assert load(bert_file, config=config, cache_dir=cache).config.id2label == {0: "a", 1: "b", 2: "c"}
        assert load(bert_file, config=str(model_folder("bert")), cache_dir=cache).config.id2label == LABELS
    assert requests == []


def test_session_options_and_providers_work_as_in_optimum(bert_file, cache):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = load(
        bert_file, cache_dir=cache, session_options=options, provider="CPUExecutionProvider", use_io_binding=True
    )
    assert model.session.get_session_options().intra_op_num_threads == 1
    assert model.use_io_binding is True
    with pytest.raises(ValueError, match="NoSuchProvider"):
        load(bert_file, cache_dir=cache, provider="NoSuchProvider")


def test_token_opens_a_private_model(exported, hub, tmp_path, cache):
    path = Path(shutil.copy(exported("bert") / "model.onnx", tmp_path / "m.onnx"))
    files = hub.repos["tiny/bert"].commits[hub.repos["tiny/bert"].refs["main"]]
    repo = hub.add("tiny/private", files, private=True)
    hub.tokens["hf_mine"] = {"tiny/private"}
    rewrite_model(
        path,
        metadata={
            "hf_hub_id": "tiny/private",
            "hf_hub_sha": repo.refs["main"],
            "hf_hub_revision": repo.refs["main"][:8],
        },
    )
    assert load(path, cache_dir=cache, token="hf_mine").config.id2label == LABELS
    with pytest.raises(OptimumHTPError, match=r"tiny/private.*HF_TOKEN"):
        load(path, cache_dir=cache / "other")


def test_file_without_record_loads_with_its_adjacent_config(bert_file, model_folder):
    without_record(bert_file)
    shutil.copy(model_folder("bert") / "config.json", bert_file.parent)
    assert load(bert_file).config.id2label == LABELS


def test_file_of_an_older_tool_with_a_short_revision_is_pinned_in_full(bert_file, cache, hub):
    commit = read_metadata(bert_file)["hf_hub_sha"]
    short = {"hf_hub_id": "tiny/bert", "hf_model_type": "hub", "hf_hub_revision": commit[:8]}
    rewrite_model(bert_file, metadata=short, drop=lambda key: key.startswith("hf_"))
    with hub.recorded() as requests:
        assert load(bert_file, cache_dir=cache).config.id2label == LABELS
    assert not [request for request in requests if f"/resolve/{commit[:8]}/" in request.path]
    assert Path(load(bert_file, cache_dir=cache).config._name_or_path).name == commit


def test_file_exported_from_the_cache_loads_from_the_cache(exported, hub, tmp_path):
    """The file does not list its repo's files, and the cache does not record a missing generation config."""
    from optimum_htp import HTPExporter

    exported("bert")
    cache = tmp_path / "cache"
    hub.repos["tiny/bert"].refs["next"] = hub.repos["tiny/bert"].refs["main"]
    HTPExporter().export("tiny/bert@next", tmp_path / "online", cache_dir=cache, do_validation=False)
    HTPExporter().export(
        "tiny/bert@next", tmp_path / "offline", cache_dir=cache, local_files_only=True, do_validation=False
    )
    with hub.recorded() as requests:
        model = load(tmp_path / "offline" / "model.onnx", cache_dir=cache, local_files_only=True)
        assert load(tmp_path / "online" / "model.onnx", cache_dir=cache, local_files_only=True, revision="next")
    assert model.config.id2label == LABELS
    assert requests == []


LOAD = """
from optimum.onnxruntime import ORTModelForCausalLM
from transformers import AutoTokenizer
model = ORTModelForCausalLM.from_pretrained({path!r}, **{options})
print(model.config.model_type, AutoTokenizer.from_pretrained({path!r}, **{options}).tokenize("the cat"))
"""


@pytest.fixture
def home_of_a_load(exported, made_once, from_the_commit):
    """The Hugging Face home after a load with a connection."""
    code = LOAD.format(path=str(exported("gpt2") / "model.onnx"), options={})
    made = made_once("homes/load", lambda home: run_python(code, forked=True, HF_HOME=str(home)))
    return {"HF_HOME": str(made)}


@pytest.mark.parametrize("how", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "local_files_only"])
def test_offline_load_opens_no_socket(how, exported, home_of_a_load):
    forbid = """
import socket
def refuse(*args):
    raise AssertionError("a connection was opened")
socket.socket.connect = socket.socket.connect_ex = refuse
"""
    options, switch = ({how: True}, {}) if how == "local_files_only" else ({}, {how: "1"})
    load_it = LOAD.format(path=str(exported("gpt2") / "model.onnx"), options=options)
    done = run_python(forbid + load_it, forked=True, **home_of_a_load, **switch)
    assert done.stdout.strip() == "gpt2 ['the', 'cat']"
