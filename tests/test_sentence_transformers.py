"""SentenceTransformer(folder, backend="onnx") on a folder that holds nothing but a stamped ONNX file."""

from __future__ import annotations

import json

import pytest

from optimum_htp import HTPExporter
from optimum_htp.origin.mirroring import mirror_model
from tests.conftest import run_python

pytestmark = pytest.mark.usefixtures("from_the_commit")

_ENCODE = """
import json, sys
from sentence_transformers import SentenceTransformer
model = SentenceTransformer({folder!r}, {options})
print(json.dumps({{"modules": [type(one).__name__ for one in model], "vectors": model.encode({texts}).tolist()}}))
"""
TEXTS = ["a cat sat on the mat", "the dog ran"]


def encode(folder, options, **env):
    code = _ENCODE.format(folder=str(folder), options=options, texts=TEXTS)
    return json.loads(run_python(code, forked=True, **env).stdout.splitlines()[-1])


def test_folder_gives_the_vectors_of_the_model(exported, model_folder, empty_home):
    ours = encode(exported("minilm"), "backend='onnx'", **empty_home)
    theirs = encode(model_folder("minilm"), "device='cpu'")
    assert ours["modules"] == theirs["modules"] == ["Transformer", "Pooling", "Normalize"]
    for mine, reference in zip(ours["vectors"], theirs["vectors"], strict=True):
        assert max(abs(a - b) for a, b in zip(mine, reference, strict=True)) < 1e-5
    again = encode(exported("minilm"), "backend='onnx', local_files_only=True", HF_HUB_OFFLINE="1", **empty_home)
    assert again["vectors"] == ours["vectors"]


def test_modules_with_weights_of_their_own(model_folder, hub, tmp_path, access, empty_home):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Dense, Pooling, Transformer

    transformer = Transformer(str(model_folder("bert")))
    dense = Dense(transformer.get_word_embedding_dimension(), 5)
    pooling = Pooling(transformer.get_word_embedding_dimension(), pooling_mode="cls")
    model = SentenceTransformer(modules=[transformer, pooling, dense], device="cpu")
    model.save_pretrained(str(tmp_path / "saved"))
    hub.add("tiny/dense", tmp_path / "saved", pipeline_tag="sentence-similarity", library_name="sentence-transformers")
    HTPExporter().export("tiny/dense", tmp_path / "out", task="feature-extraction")
    ours = encode(tmp_path / "out", "backend='onnx'")
    assert ours["modules"] == ["Transformer", "Pooling", "Dense"]
    theirs = model.encode(TEXTS).tolist()
    assert max(abs(a - b) for a, b in zip(ours["vectors"][0], theirs[0], strict=True)) < 1e-4
    mirror_model(str(tmp_path / "out" / "model.onnx"), str(tmp_path / "mirror"), access)
    hub.status = 503
    mirrored = encode(
        tmp_path / "out",
        "backend='onnx'",
        OPTIMUM_HTP_MIRRORS=str(tmp_path / "mirror"),
        OPTIMUM_HTP_TIMEOUT="1",
        **empty_home,
    )
    assert mirrored == ours
