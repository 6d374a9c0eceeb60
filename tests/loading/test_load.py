"""ORTModelForX.from_pretrained on a file: which config it takes, which files it opens, what it refuses."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from optimum.onnxruntime import (
    ORTModelForCausalLM,
    ORTModelForCustomTasks,
    ORTModelForFeatureExtraction,
    ORTModelForSeq2SeqLM,
    ORTModelForSequenceClassification,
)
from transformers import AutoConfig

from optimum_htp.errors import (
    ConfigLoadError,
    HubUnreachableError,
    InvalidOnnxFileError,
    MissingSiblingError,
    OnnxFileNotFoundError,
    OptimumHTPError,
    RevisionNotFoundError,
    WrongTaskError,
)
from optimum_htp.metadata import ExportMetadata
from optimum_htp.onnxfile import read_metadata, rewrite_model
from tests.conftest import run_python

pytestmark = pytest.mark.usefixtures("from_the_commit")

LABELS = {0: "LABEL 0", 1: "LABEL 1", 2: "LABEL 2"}


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def bert_file(exported, tmp_path):
    """A copy of an exported file, alone in its folder, under a name of its own."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    return Path(shutil.copy(exported("bert") / "model.onnx", folder / "classifier v2.onnx"))


@pytest.fixture
def t5_folder(exported, tmp_path):
    return Path(shutil.copytree(exported("t5"), tmp_path / "t5"))


def load(path, cls=ORTModelForSequenceClassification, **kwargs):
    return cls.from_pretrained(path, **kwargs)


def logits(model):
    return model(input_ids=torch.tensor([[2, 7, 8, 3]]), attention_mask=torch.ones(1, 4, dtype=torch.long)).logits


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


def test_second_load_asks_nothing(bert_file, cache, hub):
    load(bert_file, cache_dir=cache)
    with hub.recorded() as requests:
        load(bert_file, cache_dir=cache)
        load(bert_file, cache_dir=cache, local_files_only=True)
    assert requests == []


def test_path_may_be_text_or_path_absolute_or_relative(bert_file, cache, monkeypatch):
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


def test_own_config_beside_a_hub_file_is_taken(bert_file, model_folder, cache, hub):
    config = json.loads((model_folder("bert") / "config.json").read_text())
    config["id2label"] = {"0": "good", "1": "bad", "2": "ugly"}
    (bert_file.parent / "config.json").write_text(json.dumps(config))
    with hub.recorded() as requests:
        assert load(bert_file, cache_dir=cache).config.id2label == {0: "good", 1: "bad", 2: "ugly"}
    assert requests == []


@pytest.mark.parametrize("stranger", ["other type", "other labels", "not json", "not an object"])
def test_strangers_config_beside_a_hub_file_is_left_with_a_warning(bert_file, model_folder, cache, caplog, stranger):
    config = json.loads((model_folder("bert") / "config.json").read_text())
    if stranger == "other labels":
        config["id2label"] = {str(index): str(index) for index in range(9)}
    text = {
        "other type": (model_folder("gpt2") / "config.json").read_text(),
        "other labels": json.dumps(config),
        "not json": "{",
        "not an object": "[]",
    }[stranger]
    (bert_file.parent / "config.json").write_text(text)
    with caplog.at_level(logging.WARNING):
        assert load(bert_file, cache_dir=cache).config.id2label == LABELS
    assert "config.json is not used" in caplog.text


def test_given_config_counts_and_nothing_is_asked(bert_file, cache, hub, model_folder):
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model_folder("bert"), id2label={0: "a", 1: "b", 2: "c"})
    with hub.recorded() as requests:
        assert load(bert_file, config=config, cache_dir=cache).config.id2label == {0: "a", 1: "b", 2: "c"}
        assert load(bert_file, config=str(model_folder("bert")), cache_dir=cache).config.id2label == LABELS
    assert requests == []


def test_session_options_and_providers_mean_what_they_mean_in_optimum(bert_file, cache):
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


def test_missing_file_is_an_error_without_a_request(hub, tmp_path):
    with hub.recorded() as requests, pytest.raises(OnnxFileNotFoundError) as caught:
        load("out/model.onnx")
    assert isinstance(caught.value, FileNotFoundError)
    assert requests == []


def test_damaged_file_is_named(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"not onnx")
    with pytest.raises(InvalidOnnxFileError, match=r"bad\.onnx"):
        load(tmp_path / "bad.onnx")


def _without_record(path):
    rewrite_model(path, metadata={}, drop=lambda key: key.startswith("hf_"))


def test_file_without_record_and_config_names_four_remedies(bert_file):
    _without_record(bert_file)
    with pytest.raises(ConfigLoadError) as caught:
        load(bert_file)
    for remedy in ("optimum-cli export htp", f"optimum-cli htp inject {bert_file}", "config.json", "config="):
        assert remedy in str(caught.value)


def test_file_without_record_loads_with_the_config_beside_it(bert_file, model_folder):
    _without_record(bert_file)
    shutil.copy(model_folder("bert") / "config.json", bert_file.parent)
    assert load(bert_file).config.id2label == LABELS


def test_local_file_needs_its_config(bert_file):
    _without_record(bert_file)
    rewrite_model(bert_file, metadata={"hf_model_type": "local", "hf_metadata_version": "1"})
    with pytest.raises(ConfigLoadError, match="local model"):
        load(bert_file)


def test_offline_without_a_cache_says_what_is_missing(bert_file, cache):
    with pytest.raises(HubUnreachableError, match=r"tiny/bert.*local_files_only"):
        load(bert_file, cache_dir=cache, local_files_only=True)


def test_hub_that_fails_is_named(bert_file, cache, hub):
    hub.status = 501  # the client tries again for half a minute after a 502
    with pytest.raises(HubUnreachableError, match="501"):
        load(bert_file, cache_dir=cache)


def test_file_of_an_older_tool_with_a_short_revision_is_pinned_in_full(bert_file, cache, hub):
    commit = read_metadata(bert_file)["hf_hub_sha"]
    short = {"hf_hub_id": "tiny/bert", "hf_model_type": "hub", "hf_hub_revision": commit[:8]}
    rewrite_model(bert_file, metadata=short, drop=lambda key: key.startswith("hf_"))
    with hub.recorded() as requests:
        assert load(bert_file, cache_dir=cache).config.id2label == LABELS
    assert not [request for request in requests if f"/resolve/{commit[:8]}/" in request.path]
    assert Path(load(bert_file, cache_dir=cache).config._name_or_path).name == commit


def test_neighbours_are_not_opened(bert_file, cache):
    for name in ("model.onnx", "a.onnx"):
        (bert_file.parent / name).write_bytes(b"another model, and broken")
    assert load(bert_file, cache_dir=cache).config.id2label == LABELS


def test_external_data_is_found_beside_file_and_link(bert_file, cache, tmp_path):
    model = onnx.load(bert_file)
    target = tmp_path / "data" / "m.onnx"
    target.parent.mkdir()
    onnx.save(model, target, save_as_external_data=True, location="m.onnx_data", size_threshold=0)
    expected = logits(load(bert_file, cache_dir=cache))
    (tmp_path / "link.onnx").symlink_to(target)
    for path in (target, tmp_path / "link.onnx"):
        np.testing.assert_allclose(logits(load(path, cache_dir=cache)), expected, atol=1e-6)


@pytest.mark.parametrize(
    "kwargs",
    [{"export": True}, {"subfolder": "onnx"}, {"file_name": "other.onnx"}],
    ids=["export", "subfolder", "file_name"],
)
def test_options_that_contradict_a_file_are_refused(bert_file, cache, kwargs):
    with pytest.raises(ValueError):
        load(bert_file, cache_dir=cache, **kwargs)


@pytest.mark.parametrize(
    "name", ["encoder_model.onnx", "decoder_model.onnx", "decoder_model_merged.onnx", "decoder_with_past_model.onnx"]
)
def test_any_file_of_a_model_names_the_model(t5_folder, cache, name):
    (t5_folder / "a_decoder_merged_of_something_else.onnx").write_bytes(b"broken")
    model = load(t5_folder / name, ORTModelForSeq2SeqLM, cache_dir=cache)
    assert Path(model.encoder.session._model_path) == t5_folder / "encoder_model.onnx"
    assert Path(model.decoder.session._model_path) == t5_folder / "decoder_model_merged.onnx"


def test_renamed_files_are_still_one_model(t5_folder, cache):
    for index, path in enumerate(sorted(t5_folder.glob("*.onnx"))):
        path.rename(t5_folder / f"part {index}.onnx")
    model = load(t5_folder / "part 0.onnx", ORTModelForSeq2SeqLM, cache_dir=cache)
    assert Path(model.encoder.session._model_path).name == "part 3.onnx"
    assert Path(model.decoder.session._model_path).name == "part 1.onnx"


def test_missing_sibling_is_named(t5_folder, cache):
    (t5_folder / "encoder_model.onnx").unlink()
    with pytest.raises(MissingSiblingError, match=r"encoder_model\.onnx is missing"):
        load(t5_folder / "decoder_model_merged.onnx", ORTModelForSeq2SeqLM, cache_dir=cache)


def test_sibling_of_another_export_is_not_taken(t5_folder, cache):
    rewrite_model(t5_folder / "encoder_model.onnx", metadata={"hf_export_timestamp": "2020-01-01T00:00:00Z"})
    with pytest.raises(MissingSiblingError, match="of another export"):
        load(t5_folder / "decoder_model.onnx", ORTModelForSeq2SeqLM, cache_dir=cache)


def test_one_part_can_be_loaded_alone(t5_folder, cache):
    model = load(t5_folder / "encoder_model.onnx", ORTModelForFeatureExtraction, cache_dir=cache)
    assert Path(model.session._model_path).name == "encoder_model.onnx"


def test_single_file_cannot_be_an_encoder_decoder_model(bert_file, cache):
    with pytest.raises(OnnxFileNotFoundError, match="--monolith"):
        load(bert_file, ORTModelForSeq2SeqLM, cache_dir=cache)


def test_generation_config_comes_from_the_commit_and_not_from_a_stranger(exported, cache, tmp_path, hub):
    path = Path(shutil.copy(exported("gpt2") / "model.onnx", tmp_path / "gpt2.onnx"))
    (tmp_path / "generation_config.json").write_text(json.dumps({"max_new_tokens": 7, "eos_token_id": 5}))
    model = load(path, ORTModelForCausalLM, cache_dir=cache)
    assert model.generation_config.eos_token_id == 1
    assert model.generation_config.max_new_tokens is None


def test_folder_of_optimum_loads_as_ever(exported, model_folder, bert_file, hub):
    shutil.copy(model_folder("bert") / "config.json", bert_file.parent)
    with hub.recorded() as requests:
        model = load(bert_file.parent)
    assert model.config.id2label == LABELS
    assert requests == []


def test_folder_whose_name_ends_in_onnx_is_a_folder(exported, model_folder, tmp_path):
    folder = tmp_path / "folder.onnx"
    folder.mkdir()
    shutil.copy(exported("bert") / "model.onnx", folder)
    shutil.copy(model_folder("bert") / "config.json", folder)
    assert load(folder).config.id2label == LABELS


def test_file_exported_from_the_cache_loads_from_the_cache(exported, hub, tmp_path):
    """Such a file does not list its repo's files, and the cache cannot tell that there is no generation config."""
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


def test_config_that_does_not_fit_a_local_file_is_refused(exported, model_folder, bert_file):
    _without_record(bert_file)
    local = {"hf_model_type": "local", "hf_task": "text-classification"}
    rewrite_model(bert_file, metadata=local)
    config = json.loads((model_folder("bert") / "config.json").read_text())
    (bert_file.parent / "config.json").write_text(json.dumps(config))
    assert load(bert_file).config.id2label == LABELS
    config["id2label"] = {str(index): str(index) for index in range(9)}
    (bert_file.parent / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigLoadError, match="9 labels"):
        load(bert_file)


def test_broken_neighbour_does_not_hide_a_renamed_sibling(t5_folder, cache):
    for path in sorted(t5_folder.glob("*.onnx")):
        path.rename(t5_folder / f"z_{path.name}")
    (t5_folder / "broken.onnx").write_bytes(b"broken")
    assert load(t5_folder / "z_encoder_model.onnx", ORTModelForSeq2SeqLM, cache_dir=cache)


def test_two_models_of_one_moment_are_not_mixed(model_folder, tmp_path, monkeypatch):
    """Two local models have no id and no commit that tells them apart, and here not even a time."""
    from transformers import AutoModelForSeq2SeqLM

    from optimum_htp import HTPExporter

    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    second = AutoModelForSeq2SeqLM.from_pretrained(model_folder("t5"))
    with torch.no_grad():
        second.lm_head.weight.mul_(2)
    folder = tmp_path / "both"
    folder.mkdir()
    shutil.copy(model_folder("t5") / "config.json", folder)
    for prefix, source in (("a", {"model_name_or_path": model_folder("t5")}), ("b", {"model": second})):
        result = HTPExporter().export(**source, output_path=tmp_path / prefix, do_validation=False)
        for path in result.files:
            shutil.copy(path, folder / f"{prefix}_{path.name}")
    for prefix in "ab":
        model = load(folder / f"{prefix}_encoder_model.onnx", ORTModelForSeq2SeqLM)
        assert Path(model.decoder.session._model_path).name == f"{prefix}_decoder_model_merged.onnx"


def test_what_optimum_refuses_it_still_refuses_itself():
    with pytest.raises(AttributeError):
        ORTModelForSequenceClassification.from_pretrained(None)


LOAD = """
from optimum.onnxruntime import ORTModelForCausalLM
from transformers import AutoTokenizer
model = ORTModelForCausalLM.from_pretrained({path!r}, **{options})
print(model.config.model_type, AutoTokenizer.from_pretrained({path!r}, **{options}).tokenize("the cat"))
"""


@pytest.fixture
def home_of_a_load(exported, made_once, from_the_commit):
    """The Hugging Face home of a process that has loaded a file with a connection."""
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


@pytest.mark.parametrize(
    ("cls", "name", "fitting"),
    [
        (ORTModelForCausalLM, "bert", "ORTModelForSequenceClassification"),
        (ORTModelForCausalLM, "t5", "ORTModelForSeq2SeqLM"),
        (ORTModelForCausalLM, "vit", "ORTModelForImageClassification"),
    ],
)
def test_class_for_another_task_is_told_which_one_fits(cls, name, fitting, exported, cache, caplog):
    file = sorted(exported(name).glob("*.onnx"))[-1]
    with pytest.raises(WrongTaskError, match=rf"{file.name} was exported for .*: use {fitting}, ") as caught:
        load(file, cls, cache_dir=cache)
    assert isinstance(caught.value, ValueError)
    assert "use_cache" not in caplog.text + str(caught.value)


def test_class_for_another_task_that_works_is_let_through(exported, cache):
    model = load(exported("bert") / "model.onnx", ORTModelForCustomTasks, cache_dir=cache)
    ids = torch.tensor([[2, 7, 8, 3]])
    outputs = model(input_ids=ids, attention_mask=torch.ones_like(ids), token_type_ids=torch.zeros_like(ids))
    assert outputs["logits"].shape == (1, 3)
    assert load(exported("bert") / "model.onnx", ORTModelForFeatureExtraction, cache_dir=cache).path.name


def test_fitting_class_that_fails_says_what_optimum_says(exported, cache):
    with pytest.raises(ValueError) as caught:
        load(exported("bert") / "model.onnx", cache_dir=cache, provider="NoSuchProvider")
    assert not isinstance(caught.value, WrongTaskError)


def test_strangers_config_beside_a_local_file_does_not_matter_where_one_is_given(exported, model_folder, tmp_path):
    file = Path(shutil.copy(exported("gpt2") / "model.onnx", tmp_path))
    _without_record(file)
    rewrite_model(file, metadata={"hf_model_type": "local", "hf_task": "text-generation-with-past"})
    shutil.copy(model_folder("bert") / "config.json", tmp_path)
    config = AutoConfig.from_pretrained(model_folder("gpt2"))
    assert load(file, ORTModelForCausalLM, config=config).config.model_type == "gpt2"
