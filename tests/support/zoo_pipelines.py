"""Shared code of the tests of the runtime."""

from __future__ import annotations

import optimum.onnxruntime
import pytest
import transformers

from tests.support.zoo import ZOO

__all__ = ["needing_pipeline", "pipeline_of"]


def pipeline_of(name, folder, task=None):
    """Return transformers' pipeline for a file of the zoo, with Optimum's class."""
    animal = ZOO[name]
    model = getattr(optimum.onnxruntime, animal.ort_class).from_pretrained(folder)
    if animal.kind == "image":
        part = {"image_processor": transformers.AutoImageProcessor.from_pretrained(folder, use_fast=False)}
    else:
        part = {"tokenizer": transformers.AutoTokenizer.from_pretrained(folder)}
    return transformers.pipeline(task or animal.task, model=model, **part)


def needing_pipeline(task):
    if task not in transformers.pipelines.PIPELINE_REGISTRY.supported_tasks:
        pytest.skip(f"this transformers has no pipeline for {task}")
