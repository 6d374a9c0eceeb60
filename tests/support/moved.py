"""Repos whose main branch has changed: the changes, and code that loads them."""

from __future__ import annotations

import json

import pytest

from tests.support.models import WORDS

TEXT = "the small cat sat on a red mat"
LAYOUTS = [
    ("onnx", "all"),
    *(pytest.param(*how, marks=pytest.mark.slow) for how in [("", "all"), ("onnx", "none"), ("", "none")]),
]


def files_below(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def changed_words(tmp_path):
    """Return the files of a tokenizer that gives each word another number."""
    from transformers import BertTokenizerFast

    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *reversed(WORDS)]))
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "words")
    return files_below(tmp_path / "words")


def changed_json(files, name, **values):
    return {name: json.dumps({**json.loads(files[name]), **values}).encode()}


CLASSIFIER = """
import json
from optimum.onnxruntime import ORTModelForSequenceClassification
from optimum.pipelines import pipeline as optimum_pipeline
from transformers import pipeline
from optimum_htp import OptimumONNXModel

given = {{"subfolder": {layout!r}}} if {layout!r} else {{}}
model = ORTModelForSequenceClassification.from_pretrained("moved/bert", **given)
named, words = OptimumONNXModel.from_onnx("moved/bert", **given)
runs = {{
    "model": pipeline("text-classification", model=model),
    "named": pipeline("text-classification", model=named, tokenizer=words),
    "pipeline": pipeline("text-classification", model="moved/bert"),
    "without a task": pipeline(model="moved/bert"),
    "optimum": optimum_pipeline("text-classification", model="moved/bert", accelerator="ort"),
}}
answers = {{name: run({text!r})[0] for name, run in runs.items()}}
print(json.dumps({{name: (answer["label"], answer["score"]) for name, answer in answers.items()}}))
"""


SENTENCES = """
import json
from sentence_transformers import SentenceTransformer
model = SentenceTransformer("moved/sentences", backend="onnx", **{options})
print(json.dumps([[type(module).__name__ for module in model], model.encode({text!r}).tolist()]))
"""
