"""Sentence transformers return the model's vectors with any place of the config, and cross-encoders accept files."""

from __future__ import annotations

import shutil

import pytest
from optimum.onnxruntime import (
    ORTModelForFeatureExtraction,
)

from tests.support.loads import quantized

TEXTS = ["a cat sat on the mat", "the dog ran"]


@pytest.fixture
def cls_pooled(hub, model_folder, tmp_path):
    """Export a model that pools with the first token's vector and normalizes it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer

    from optimum_htp import HTPExporter

    transformer = Transformer(str(model_folder("bert")))
    pooling = Pooling(transformer.get_word_embedding_dimension(), pooling_mode="cls")
    model = SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu")
    model.save_pretrained(str(tmp_path / "saved"))
    hub.add("tiny/cls", tmp_path / "saved", pipeline_tag="sentence-similarity", library_name="sentence-transformers")
    HTPExporter().export("tiny/cls", tmp_path / "out", task="feature-extraction")
    return tmp_path / "out", model.encode(TEXTS)


def encoded(source, **options):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(source), backend="onnx", **options)
    return [type(module).__name__ for module in model], model.encode(TEXTS)


def cosine(one, other):
    return min((one * other).sum(1) / ((one**2).sum(1) ** 0.5 * (other**2).sum(1) ** 0.5))


MODULES = ["Transformer", "Pooling", "Normalize"]


def test_vectors_match_the_model_with_any_adjacent_config(cls_pooled, tmp_path, hub):
    folder, expected = cls_pooled
    saved = tmp_path / "saved-model"
    ORTModelForFeatureExtraction.from_pretrained(folder / "model.onnx").save_pretrained(saved)
    small = quantized(folder, tmp_path / "q")
    hub.status = 503
    for source, options in (
        (folder, {}),
        (folder / "model.onnx", {}),
        (saved, {}),
        (saved / "model.onnx", {}),
        (small, {"model_kwargs": {"file_name": "model_quantized.onnx"}}),
        (small / "model_quantized.onnx", {}),
    ):
        modules, vectors = encoded(source, **options)
        assert modules == MODULES, source
        assert cosine(vectors, expected) > (0.97 if "quantized" in str((source, options)) else 0.99999), source


@pytest.mark.parametrize("place", ["model.onnx", "onnx/model.onnx"])
@pytest.mark.parametrize("with_config", [False, True])
def test_vectors_of_a_repo_match_the_model(place, with_config, cls_pooled, hub, tmp_path):
    folder, expected = cls_pooled
    files = {place: (folder / "model.onnx").read_bytes()}
    if with_config:
        commit = hub.repos["tiny/cls"].commits[hub.repos["tiny/cls"].refs["main"]]
        files["config.json"] = commit["config.json"]
    hub.add("shipped/cls", files)
    modules, vectors = encoded("shipped/cls", cache_folder=str(tmp_path / "cache"))
    assert modules == MODULES
    assert cosine(vectors, expected) > 0.99999


def test_sentence_transformer_accepts_a_subfolder_and_a_url_of_a_folder(cls_pooled, hub, tmp_path):
    folder, expected = cls_pooled
    (tmp_path / "made" / "some" / "where").mkdir(parents=True)
    shutil.copy(folder / "model.onnx", tmp_path / "made" / "some" / "where" / "my.onnx")
    hub.add("shipped/below", {"some/where/my.onnx": (folder / "model.onnx").read_bytes()})
    below = {"subfolder": "some/where", "file_name": "my.onnx"}
    cache = {"cache_folder": str(tmp_path / "cache")}
    for source, options in (
        (tmp_path / "made", {"model_kwargs": below}),
        ("shipped/below", {"model_kwargs": below, **cache}),
        ("shipped/below", {"model_kwargs": {"subfolder": "some/where"}, **cache}),
        (folder.as_uri(), {}),
    ):
        modules, vectors = encoded(source, **options)
        assert modules == MODULES, source
        assert cosine(vectors, expected) > 0.99999, source


def test_cross_encoder_accepts_a_file(exported, model_folder):
    from sentence_transformers import CrossEncoder

    pairs = [("the cat", "the dog"), ("a mat", "a house")]
    expected = CrossEncoder(str(model_folder("bert")), device="cpu").predict(pairs)
    for source in (exported("bert") / "model.onnx", exported("bert")):
        assert CrossEncoder(str(source), backend="onnx").predict(pairs) == pytest.approx(expected, abs=1e-4)


def test_pytorch_model_is_pooled_as_before(model_folder, exported, tmp_path):
    """A folder with PyTorch weights and a file with a record: only backend="onnx" uses the file."""
    from sentence_transformers import SentenceTransformer

    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model_folder("minilm") / name, tmp_path)
    shutil.copy(exported("minilm") / "model.onnx", tmp_path)
    model = SentenceTransformer(str(tmp_path), device="cpu")
    assert [type(module).__name__ for module in model] == ["Transformer", "Pooling"]
