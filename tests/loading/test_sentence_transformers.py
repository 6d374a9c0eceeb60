"""SentenceTransformer(folder, backend="onnx") on a folder that contains only an ONNX file with a record."""

from __future__ import annotations

import json
import shutil

import pytest

from optimum_htp import HTPExporter, OptimumONNXModel
from optimum_htp.errors import ExportError, WrongTaskError
from optimum_htp.extras.mirror.filling import mirror_model
from optimum_htp.metadata import read_record
from tests.conftest import run_python
from tests.support.animals import save_words

pytestmark = pytest.mark.usefixtures("from_the_commit")

_ENCODE = """
import json, sys
from sentence_transformers import SentenceTransformer
model = SentenceTransformer({folder!r}, {options})
print(json.dumps({{"modules": [type(one).__name__ for one in model], "vectors": model.encode({texts}).tolist()}}))
"""
TEXTS = ["a cat sat on the mat", "the dog ran"]


def encode(folder, options, *, fails=False, **env):
    code = _ENCODE.format(folder=str(folder), options=options, texts=TEXTS)
    done = run_python(code, forked=True, check=not fails, **env)
    return done.stderr if fails else json.loads(done.stdout.splitlines()[-1])


def near(ours, theirs):
    return all(
        abs(a - b) < 1e-4 for mine, one in zip(ours, theirs, strict=True) for a, b in zip(mine, one, strict=True)
    )


def test_vectors_of_a_folder_match_the_model(exported, model_folder, empty_home):
    ours = encode(exported("minilm"), "backend='onnx'", **empty_home)
    theirs = encode(model_folder("minilm"), "device='cpu'")
    assert ours["modules"] == theirs["modules"] == ["Transformer", "Pooling", "Normalize"]
    for mine, reference in zip(ours["vectors"], theirs["vectors"], strict=True):
        assert max(abs(a - b) for a, b in zip(mine, reference, strict=True)) < 1e-5
    again = encode(exported("minilm"), "backend='onnx', local_files_only=True", HF_HUB_OFFLINE="1", **empty_home)
    assert again["vectors"] == ours["vectors"]


@pytest.fixture
def dense(model_folder, tmp_path):
    """A model with a module that has own weights, saved in a folder."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Dense, Pooling, Transformer

    transformer = Transformer(str(model_folder("bert")))
    dense = Dense(transformer.get_word_embedding_dimension(), 5)
    pooling = Pooling(transformer.get_word_embedding_dimension(), pooling_mode="cls")
    model = SentenceTransformer(modules=[transformer, pooling, dense], device="cpu")
    model.save_pretrained(str(tmp_path / "saved"))
    return model


def test_modules_with_own_weights(dense, hub, tmp_path, access, empty_home):
    hub.add("tiny/dense", tmp_path / "saved", pipeline_tag="sentence-similarity", library_name="sentence-transformers")
    HTPExporter().export("tiny/dense", tmp_path / "out", task="feature-extraction")
    ours = encode(tmp_path / "out", "backend='onnx'")
    assert ours["modules"] == ["Transformer", "Pooling", "Dense"]
    assert near(ours["vectors"], dense.encode(TEXTS).tolist())
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
    here = {"OPTIMUM_HTP_RESOLVE": "", "OPTIMUM_HTP_TIMEOUT": "1", **empty_home}
    away = encode(tmp_path / "out", "backend='onnx'", fails=True, **here)
    record = read_record(tmp_path / "out" / "model.onnx")
    assert f"It requires 2_Dense/model.safetensors of tiny/dense at {record.hub_sha}. Copy it to {tmp_path}" in away


def test_missing_module_weights_of_a_local_model_are_reported(dense, tmp_path, monkeypatch):
    monkeypatch.delenv("OPTIMUM_HTP_RESOLVE")
    HTPExporter().export(tmp_path / "saved", tmp_path / "out", task="feature-extraction")
    (tmp_path / "alone").mkdir()
    shutil.copy(tmp_path / "out" / "model.onnx", tmp_path / "alone")
    said = encode(tmp_path / "alone", "backend='onnx'", fails=True)
    assert f"Copy 2_Dense/model.safetensors from that model's folder to {tmp_path / 'alone' / '2_Dense'}." in said
    shutil.copytree(tmp_path / "saved" / "2_Dense", tmp_path / "alone" / "2_Dense")
    assert near(encode(tmp_path / "alone", "backend='onnx'")["vectors"], dense.encode(TEXTS).tolist())


def test_encoder_is_exported_without_decoder(hub, tmp_path):
    """Optimum would add a decoder with random weights."""
    from optimum.onnxruntime import ORTModelForFeatureExtraction
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import T5Config, T5EncoderModel

    sizes = {"vocab_size": 40, "d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 1, "num_heads": 4}
    T5EncoderModel(T5Config(**sizes)).save_pretrained(tmp_path / "t5")
    save_words(tmp_path / "t5")
    settings = json.loads((tmp_path / "t5" / "tokenizer_config.json").read_text())
    settings["model_input_names"] = ["input_ids", "attention_mask"]
    (tmp_path / "t5" / "tokenizer_config.json").write_text(json.dumps(settings))
    model = SentenceTransformer(modules=[Transformer(str(tmp_path / "t5")), Pooling(16)], device="cpu")
    model.save_pretrained(str(tmp_path / "saved"))
    hub.add("tiny/st5", tmp_path / "saved", pipeline_tag="sentence-similarity", library_name="sentence-transformers")
    for options in ({}, {"task": "feature-extraction"}):
        with pytest.raises(
            ExportError,
            match=r"T5EncoderModel, an encoder that Optimum exports only.* --library sentence_transformers",
        ):
            HTPExporter().export("tiny/st5", tmp_path / "out", **options)
    with pytest.raises(ExportError, match="T5EncoderModel, an encoder that Optimum exports only"):
        HTPExporter().export(tmp_path / "t5", tmp_path / "out", task="feature-extraction")
    HTPExporter().export("tiny/st5", tmp_path / "out", library_name="sentence_transformers")
    whole, tokenizer = OptimumONNXModel.from_onnx(tmp_path / "out" / "model.onnx")
    vectors = whole(**tokenizer(TEXTS, padding=True, return_tensors="pt"))["sentence_embedding"]
    assert near(vectors.tolist(), model.encode(TEXTS).tolist())
    for load in (ORTModelForFeatureExtraction.from_pretrained, lambda path: SentenceTransformer(path, backend="onnx")):
        with pytest.raises(WrongTaskError, match=r"ORTModelForCustomTasks and its output sentence_embedding"):
            load(str(tmp_path / "out"))
