"""Optimum's optimizer and quantizer accept files with a record, and their outputs have a record and load."""

from __future__ import annotations

import shutil

import pytest
import torch
from optimum.onnxruntime import (
    AutoOptimizationConfig,
    AutoQuantizationConfig,
    ORTModelForSeq2SeqLM,
    ORTModelForSequenceClassification,
    ORTOptimizer,
    ORTQuantizer,
)

from optimum_htp.metadata import ExportMetadata
from optimum_htp.onnxfile import read_metadata
from tests.conftest import optimum_cli

BATCH = {"input_ids": torch.tensor([[2, 7, 8, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}


def record(path):
    return ExportMetadata.from_properties(read_metadata(path))


def files_alone(folder):
    """Delete everything but the ONNX files."""
    for path in folder.iterdir():
        if path.suffix != ".onnx":
            path.unlink()
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("as_file", [False, True])
def test_optimizer(exported, tmp_path, as_file):
    source = exported("bert") / "model.onnx"
    optimizer = ORTOptimizer.from_pretrained(source if as_file else source.parent)
    optimizer.optimize(AutoOptimizationConfig.O1(), save_dir=tmp_path)
    made = tmp_path / "model_optimized.onnx"
    assert (tmp_path / "tokenizer.json").is_file()
    assert record(made).hub_sha == record(source).hub_sha
    assert files_alone(tmp_path) == [made.name]
    before = ORTModelForSequenceClassification.from_pretrained(source)(**BATCH).logits
    after = ORTModelForSequenceClassification.from_pretrained(made)(**BATCH).logits
    assert (before - after).abs().max() < 1e-4


@pytest.mark.parametrize("as_file", [False, True])
def test_quantizer(exported, tmp_path, as_file):
    source = exported("bert") / "model.onnx"
    quantizer = ORTQuantizer.from_pretrained(source if as_file else source.parent)
    quantizer.quantize(AutoQuantizationConfig.avx2(is_static=False), save_dir=tmp_path)
    made = tmp_path / "model_quantized.onnx"
    assert record(made).hub_sha == record(source).hub_sha
    assert files_alone(tmp_path) == [made.name]
    assert ORTModelForSequenceClassification.from_pretrained(made)(**BATCH).logits.shape == (1, 3)


@pytest.mark.slow
def test_commands_on_a_model_of_several_files(exported, tmp_path):
    optimum_cli("onnxruntime", "quantize", "--onnx_model", exported("t5"), "--avx2", "-o", tmp_path / "out")
    names = files_alone(tmp_path / "out")
    assert "encoder_model_quantized.onnx" in names
    assert set(record(tmp_path / "out" / names[0]).onnx_files) == set(names)
    model = ORTModelForSeq2SeqLM.from_pretrained(tmp_path / "out" / "encoder_model_quantized.onnx")
    tokens = model.generate(**model.preprocessors[0]("the cat sat", return_tensors="pt"), max_new_tokens=4)
    assert tokens.shape[0] == 1


@pytest.mark.slow
def test_command_that_optimizes(exported, tmp_path):
    optimum_cli("onnxruntime", "optimize", "--onnx_model", exported("bert"), "-O2", "-o", tmp_path / "out")
    assert record(tmp_path / "out" / "model_optimized.onnx").task == "text-classification"


def test_folder_without_record_fails_as_without_hooks(exported, tmp_path):
    import onnx

    model = onnx.load(exported("bert") / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="does not contain the configuration file"):
        ORTOptimizer.from_pretrained(tmp_path)


def test_output_of_a_file_without_a_record_has_no_record(exported, tmp_path, model_folder):
    import onnx

    model = onnx.load(exported("bert") / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "model.onnx")
    shutil.copy(model_folder("bert") / "config.json", tmp_path)
    ORTQuantizer.from_pretrained(tmp_path).quantize(
        AutoQuantizationConfig.avx2(is_static=False), save_dir=tmp_path / "out"
    )
    assert record(tmp_path / "out" / "model_quantized.onnx") is None
