"""Export with the command, load in a new process with an empty cache, and compare with PyTorch."""

from __future__ import annotations

import json
import sys

import pytest

from tests.conftest import ARCHITECTURES, run, run_python

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_exported_file_answers_as_pytorch_does(name, exported, model_folder, empty_home):
    output = exported(name)
    file = sorted(output.glob("*.onnx"))[0]
    done = run(
        sys.executable,
        "-m",
        "tests.support.compare",
        ARCHITECTURES[name].ort_class,
        file,
        model_folder(name),
        **empty_home,
    )
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["class"] == ARCHITECTURES[name].ort_class
    assert report["isinstance"]
    assert report["difference"] < 1e-4
    if "same_tokens" in report:
        assert report["same_tokens"]
        assert report["distinct"] >= 3


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_hub_export_is_onnx_files_and_nothing_else(name, exported):
    assert {path.suffix for path in exported(name).rglob("*")} == {".onnx"}


def test_sentences_are_as_similar_as_with_the_real_model(exported, empty_home):
    code = f"""
import json, torch
from optimum.onnxruntime import ORTModelForFeatureExtraction
from transformers import AutoTokenizer
model = ORTModelForFeatureExtraction.from_pretrained({str(exported("minilm") / "model.onnx")!r})
tokenizer = AutoTokenizer.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")
texts = ["A man is eating food.", "A man eats something.", "The stock market fell sharply."]
inputs = tokenizer(texts, padding=True, return_tensors="pt")
hidden = model(**inputs).last_hidden_state
mask = inputs["attention_mask"].unsqueeze(-1)
vectors = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
print(json.dumps((vectors @ vectors.T).tolist()))
"""
    similarity = json.loads(run_python(code, **empty_home).stdout.splitlines()[-1])
    assert similarity[0][1] > 0.6
    assert similarity[0][2] < 0.2
