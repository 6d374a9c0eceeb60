"""Sentence embeddings match those of sentence_transformers on the same model."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from optimum_htp import HTPExporter
from optimum_htp.errors import ArgumentError, ConfigLoadError
from optimum_htp.metadata import read_record
from optimum_htp.runtime import load

sentence_transformers = pytest.importorskip("sentence_transformers")
modules = pytest.importorskip("sentence_transformers.models")

TEXTS = ["a cat sat on the mat", " the dog ran ", "I like it you and me the big cat not", "the"]


@pytest.fixture
def exported_with(model_folder, hub, tmp_path):
    """Export a sentence_transformers model with the given modules; return the model and the output folder."""

    def export(pooling, *more, prompts=None, default=None):
        transformer = modules.Transformer(str(model_folder("bert")))
        size = transformer.get_word_embedding_dimension()
        model = sentence_transformers.SentenceTransformer(
            modules=[transformer, modules.Pooling(size, pooling_mode=pooling), *(make(size) for make in more)],
            device="cpu",
            **({"prompts": prompts} if prompts else {}),
            **({"default_prompt_name": default} if default else {}),
        )
        name = f"tiny/{abs(hash((str(pooling), len(more), str(prompts))))}"
        folder = tmp_path / "saved"
        model.save_pretrained(str(folder))
        hub.add(name, folder, pipeline_tag="sentence-similarity", library_name="sentence-transformers")
        HTPExporter().export(name, tmp_path / "out", task="feature-extraction")
        return model, tmp_path / "out"

    return export


def assert_near(found, expected):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize(
    "pooling",
    ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", ("mean", "cls"), ("max", "mean")],
)
def test_pooling_matches_sentence_transformers(pooling, exported_with):
    model, folder = exported_with(pooling)
    assert_near(load(folder).encode(TEXTS), model.encode(TEXTS))


def test_one_text_has_one_embedding(exported_with):
    model, folder = exported_with("mean", lambda size: modules.Normalize())
    assert_near(load(folder).encode(TEXTS[0]), model.encode(TEXTS[0]))
    assert_near(load(folder).encode(TEXTS, batch_size=1), model.encode(TEXTS))


@pytest.mark.parametrize("activation", ["Tanh", "Identity", "ReLU", "Sigmoid"])
def test_dense_layer_of_the_commit_is_used(activation, exported_with):
    import torch

    made = getattr(torch.nn, activation)()
    model, folder = exported_with("mean", lambda size: modules.Dense(size, 5, activation_function=made))
    assert_near(load(folder).encode(TEXTS), model.encode(TEXTS))


def test_prompts_match_sentence_transformers(exported_with):
    model, folder = exported_with("mean", prompts={"query": "the cat ", "text": ""}, default="query")
    ours = load(folder)
    assert_near(ours.encode(TEXTS), model.encode(TEXTS))
    assert_near(ours.encode(TEXTS, prompt_name="text"), model.encode(TEXTS, prompt_name="text"))
    assert_near(ours.encode(TEXTS, prompt="big "), model.encode(TEXTS, prompt="big "))
    with pytest.raises(ArgumentError, match="no prompt 'poem'"):
        ours.encode(TEXTS, prompt_name="poem")


def test_similarities_match_sentence_transformers(exported_with):
    model, folder = exported_with("mean")
    found = load(folder, task="sentence-similarity")(TEXTS[0], TEXTS[1:])
    expected = model.similarity(model.encode(TEXTS[:1]), model.encode(TEXTS[1:]))[0].tolist()
    assert found == pytest.approx(expected, abs=1e-5)


def test_unsupported_module_is_rejected(exported_with):
    _, folder = exported_with("mean", lambda size: modules.LayerNorm(size))
    with pytest.raises(ConfigLoadError, match="LayerNorm"):
        load(folder).encode(TEXTS)


def test_model_without_modules_is_rejected(zoo_export):
    with pytest.raises(ConfigLoadError, match=r"modules\.json"):
        load(zoo_export("albert").output).encode(TEXTS)


def test_embeddings_of_a_real_model_match(exported, model_folder):
    model = sentence_transformers.SentenceTransformer(str(model_folder("minilm")), device="cpu")
    texts = [*TEXTS, "A man is eating food.", "Ein Mann isst. " * 200, "日本語", ""]
    assert_near(load(exported("minilm")).encode(texts), model.encode(texts))


def test_file_with_pooling_matches(model_folder, tmp_path):
    folder = model_folder("minilm")
    HTPExporter().export(folder, tmp_path / "out", task="sentence-similarity", library_name="sentence_transformers")
    assert read_record(tmp_path / "out" / "model.onnx").export_library == "sentence_transformers"
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    assert_near(load(tmp_path / "out").encode(TEXTS), model.encode(TEXTS))


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("others.Pooling", "1_Pooling"),
        ("sentence_transformers.models.Pooling", "../elsewhere"),
        ("sentence_transformers.models.Pooling", "/etc"),
        ("sentence_transformers.models.Pooling", 3),
    ],
)
def test_foreign_modules_and_outside_folders_are_rejected(kind, path, exported_with, tmp_path):
    _, folder = exported_with("mean")
    target = tmp_path / "copy"
    shutil.copytree(folder, target)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "config.json").write_text('{"pooling_mode": "cls"}')
    transformer = {"type": "sentence_transformers.models.Transformer", "path": ""}
    (target / "modules.json").write_text(json.dumps([transformer, {"type": kind, "path": path}]))
    with pytest.raises(ConfigLoadError, match="not supported"):
        load(target).encode(TEXTS)
