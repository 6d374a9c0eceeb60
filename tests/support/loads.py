"""Loads of a small classifier."""

from __future__ import annotations

import torch
from optimum.onnxruntime import (
    ORTModelForSequenceClassification,
    ORTQuantizer,
)
from optimum.onnxruntime.configuration import AutoQuantizationConfig

from optimum_htp.onnxfile import rewrite_model

LABELS = {0: "LABEL 0", 1: "LABEL 1", 2: "LABEL 2"}


def load(path, cls=ORTModelForSequenceClassification, **kwargs):
    return cls.from_pretrained(path, **kwargs)


def logits(model):
    return model(input_ids=torch.tensor([[2, 7, 8, 3]]), attention_mask=torch.ones(1, 4, dtype=torch.long)).logits


def without_record(path):
    rewrite_model(path, metadata={}, drop=lambda key: key.startswith("hf_"))


def quantized(folder, target):
    """The output of Optimum's quantizer for a folder with an adjacent config."""
    quantizer = ORTQuantizer.from_pretrained(folder, file_name="model.onnx")
    quantizer.quantize(AutoQuantizationConfig.avx2(is_static=False), save_dir=target)
    assert (target / "config.json").is_file()
    return target
