"""Rejected loads report the reason and a remedy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from optimum.onnxruntime import (
    ORTModelForCausalLM,
    ORTModelForCustomTasks,
    ORTModelForFeatureExtraction,
    ORTModelForSequenceClassification,
)
from transformers import AutoConfig

from optimum_htp.errors import (
    ConfigLoadError,
    HubUnreachableError,
    InvalidOnnxFileError,
    OnnxFileNotFoundError,
    WrongTaskError,
)
from optimum_htp.onnxfile import rewrite_model
from tests.support.loads import LABELS, load, without_record

pytestmark = pytest.mark.usefixtures("from_the_commit")


def test_missing_file_is_an_error_without_a_request(hub, tmp_path):
    with hub.recorded() as requests, pytest.raises(OnnxFileNotFoundError) as caught:
        load("out/model.onnx")
    assert isinstance(caught.value, FileNotFoundError)
    assert requests == []


def test_damaged_file_is_named(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"not onnx")
    with pytest.raises(InvalidOnnxFileError, match=r"bad\.onnx"):
        load(tmp_path / "bad.onnx")


def test_error_for_a_file_without_record_and_config_has_four_remedies(bert_file):
    without_record(bert_file)
    with pytest.raises(ConfigLoadError) as caught:
        load(bert_file)
    for remedy in ("optimum-cli export htp", f"optimum-cli htp inject {bert_file}", "config.json", "config="):
        assert remedy in str(caught.value)


def test_local_file_needs_its_config(bert_file):
    without_record(bert_file)
    rewrite_model(bert_file, metadata={"hf_model_type": "local", "hf_metadata_version": "1"})
    with pytest.raises(ConfigLoadError, match="local model"):
        load(bert_file)


def test_offline_load_without_a_cache_reports_missing_files(bert_file, cache):
    with pytest.raises(HubUnreachableError, match=r"tiny/bert.*local_files_only"):
        load(bert_file, cache_dir=cache, local_files_only=True)


def test_failing_hub_is_reported(bert_file, cache, hub):
    hub.status = 501  # the client retries for half a minute after a 502
    with pytest.raises(HubUnreachableError, match="501"):
        load(bert_file, cache_dir=cache)


@pytest.mark.parametrize(
    "kwargs",
    [{"export": True}, {"subfolder": "onnx"}, {"file_name": "other.onnx"}],
    ids=["export", "subfolder", "file_name"],
)
def test_options_that_contradict_a_file_are_rejected(bert_file, cache, kwargs):
    with pytest.raises(ValueError):
        load(bert_file, cache_dir=cache, **kwargs)


def test_config_that_does_not_fit_a_local_file_is_rejected(exported, model_folder, bert_file):
    without_record(bert_file)
    local = {"hf_model_type": "local", "hf_task": "text-classification"}
    rewrite_model(bert_file, metadata=local)
    config = json.loads((model_folder("bert") / "config.json").read_text())
    (bert_file.parent / "config.json").write_text(json.dumps(config))
    assert load(bert_file).config.id2label == LABELS
    config["id2label"] = {str(index): str(index) for index in range(9)}
    (bert_file.parent / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigLoadError, match="9 labels"):
        load(bert_file)


def test_optimum_raises_its_own_errors():
    with pytest.raises(AttributeError):
        ORTModelForSequenceClassification.from_pretrained(None)


@pytest.mark.parametrize(
    ("cls", "name", "fitting"),
    [
        (ORTModelForCausalLM, "bert", "ORTModelForSequenceClassification"),
        (ORTModelForCausalLM, "t5", "ORTModelForSeq2SeqLM"),
        (ORTModelForCausalLM, "vit", "ORTModelForImageClassification"),
    ],
)
def test_error_for_a_class_of_another_task_names_the_right_class(cls, name, fitting, exported, cache, caplog):
    file = sorted(exported(name).glob("*.onnx"))[-1]
    with pytest.raises(WrongTaskError, match=rf"{file.name} was exported for .*Use {fitting}, ") as caught:
        load(file, cls, cache_dir=cache)
    assert isinstance(caught.value, ValueError)
    assert "use_cache" not in caplog.text + str(caught.value)


def test_class_for_another_task_is_accepted_if_it_works(exported, cache):
    model = load(exported("bert") / "model.onnx", ORTModelForCustomTasks, cache_dir=cache)
    ids = torch.tensor([[2, 7, 8, 3]])
    outputs = model(input_ids=ids, attention_mask=torch.ones_like(ids), token_type_ids=torch.zeros_like(ids))
    assert outputs["logits"].shape == (1, 3)
    assert load(exported("bert") / "model.onnx", ORTModelForFeatureExtraction, cache_dir=cache).path.name


def test_failure_of_the_right_class_is_optimums_error(exported, cache):
    with pytest.raises(ValueError) as caught:
        load(exported("bert") / "model.onnx", cache_dir=cache, provider="NoSuchProvider")
    assert not isinstance(caught.value, WrongTaskError)


def test_adjacent_config_of_another_model_is_ignored_if_one_is_given(exported, model_folder, tmp_path):
    file = Path(shutil.copy(exported("gpt2") / "model.onnx", tmp_path))
    without_record(file)
    rewrite_model(file, metadata={"hf_model_type": "local", "hf_task": "text-generation-with-past"})
    shutil.copy(model_folder("bert") / "config.json", tmp_path)
    config = AutoConfig.from_pretrained(model_folder("gpt2"))
    assert load(file, ORTModelForCausalLM, config=config).config.model_type == "gpt2"
