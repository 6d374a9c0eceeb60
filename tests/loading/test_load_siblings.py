"""Models of several files: which files a load opens, and which adjacent files it ignores."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from optimum.onnxruntime import (
    ORTModelForCausalLM,
    ORTModelForFeatureExtraction,
    ORTModelForSeq2SeqLM,
)

from optimum_htp.errors import (
    MissingSiblingError,
    OnnxFileNotFoundError,
)
from optimum_htp.onnxfile import rewrite_model
from tests.support.loads import LABELS, load, logits

pytestmark = pytest.mark.usefixtures("from_the_commit")


def test_other_adjacent_files_are_not_opened(bert_file, cache):
    for name in ("model.onnx", "a.onnx"):
        (bert_file.parent / name).write_bytes(b"another model, and broken")
    assert load(bert_file, cache_dir=cache).config.id2label == LABELS


def test_external_data_is_found_next_to_file_and_link(bert_file, cache, tmp_path):
    model = onnx.load(bert_file)
    target = tmp_path / "data" / "m.onnx"
    target.parent.mkdir()
    onnx.save(model, target, save_as_external_data=True, location="m.onnx_data", size_threshold=0)
    expected = logits(load(bert_file, cache_dir=cache))
    (tmp_path / "link.onnx").symlink_to(target)
    for path in (target, tmp_path / "link.onnx"):
        np.testing.assert_allclose(logits(load(path, cache_dir=cache)), expected, atol=1e-6)


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


def test_missing_part_is_reported(t5_folder, cache):
    (t5_folder / "encoder_model.onnx").unlink()
    with pytest.raises(MissingSiblingError, match=r"encoder_model\.onnx is missing"):
        load(t5_folder / "decoder_model_merged.onnx", ORTModelForSeq2SeqLM, cache_dir=cache)


def test_part_of_another_export_is_not_used(t5_folder, cache):
    rewrite_model(t5_folder / "encoder_model.onnx", metadata={"hf_export_timestamp": "2020-01-01T00:00:00Z"})
    with pytest.raises(MissingSiblingError, match="of another export"):
        load(t5_folder / "decoder_model.onnx", ORTModelForSeq2SeqLM, cache_dir=cache)


def test_one_part_can_be_loaded_alone(t5_folder, cache):
    model = load(t5_folder / "encoder_model.onnx", ORTModelForFeatureExtraction, cache_dir=cache)
    assert Path(model.session._model_path).name == "encoder_model.onnx"


def test_single_file_cannot_be_an_encoder_decoder_model(bert_file, cache):
    with pytest.raises(OnnxFileNotFoundError, match="--monolith"):
        load(bert_file, ORTModelForSeq2SeqLM, cache_dir=cache)


def test_generation_config_comes_from_the_commit(exported, cache, tmp_path, hub):
    path = Path(shutil.copy(exported("gpt2") / "model.onnx", tmp_path / "gpt2.onnx"))
    (tmp_path / "generation_config.json").write_text(json.dumps({"max_new_tokens": 7, "eos_token_id": 5}))
    model = load(path, ORTModelForCausalLM, cache_dir=cache)
    assert model.generation_config.eos_token_id == 1
    assert model.generation_config.max_new_tokens is None


def test_folder_of_optimum_loads_as_before(exported, model_folder, bert_file, hub):
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


def test_broken_adjacent_file_does_not_hide_a_renamed_part(t5_folder, cache):
    for path in sorted(t5_folder.glob("*.onnx")):
        path.rename(t5_folder / f"z_{path.name}")
    (t5_folder / "broken.onnx").write_bytes(b"broken")
    assert load(t5_folder / "z_encoder_model.onnx", ORTModelForSeq2SeqLM, cache_dir=cache)


def test_two_models_exported_at_the_same_time_are_not_mixed(model_folder, tmp_path, monkeypatch):
    """Two local models have no id, no commit, and here the same time."""
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
