"""Shared fixtures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import run_python
from tests.support.moved import TEXT, changed_json, changed_words, files_below


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def bert_file(exported, tmp_path):
    """A renamed copy of an exported file, alone in its folder."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    return Path(shutil.copy(exported("bert") / "model.onnx", folder / "classifier v2.onnx"))


@pytest.fixture
def t5_folder(exported, tmp_path):
    return Path(shutil.copytree(exported("t5"), tmp_path / "t5"))


@pytest.fixture
def moved_on(hub, tmp_path):
    """Publish a model, export it, and commit the changed files and the ONNX files to main."""
    from optimum_htp import HTPExporter

    def publish(repo_id, folder, changed, layout="onnx", embed="all", **about):
        files = files_below(folder)
        repo = hub.add(repo_id, files, **about)
        HTPExporter().export(repo_id, tmp_path / "out", embed=embed, cache_dir=tmp_path / "exporting")
        prefix = f"{layout}/" if layout else ""
        onnx = {prefix + name: body for name, body in files_below(tmp_path / "out").items() if name.endswith("onnx")}
        kept = {name: body for name, body in files.items() if not name.endswith(".safetensors")}
        return repo.refs["main"], repo.commit({**kept, **changed, **onnx})

    return publish


@pytest.fixture
def ask(tmp_path):
    """Run code in a process with its own cache, first with the Hub and then without it. Return the last line."""

    def run(code, *, offline=True, **env):
        answers = []
        for more in ({}, {"HF_HUB_OFFLINE": "1"}) if offline else ({},):
            done = run_python(code, forked=True, HF_HOME=str(tmp_path / "home"), **more, **env)
            answers.append(json.loads(done.stdout.splitlines()[-1]))
        return answers

    return run


@pytest.fixture
def classifier(moved_on, model_folder, tmp_path):
    """Publish a classifier whose main branch has other labels and another vocabulary."""
    folder = model_folder("bert")
    config = changed_json(files_below(folder), "config.json", id2label={str(i): f"NEW {i}" for i in range(3)})

    def publish(layout="onnx", embed="all"):
        changed = {**config, **changed_words(tmp_path)}
        about = {"pipeline_tag": "text-classification", "library_name": "transformers"}
        return moved_on("moved/bert", folder, changed, layout, embed, **about)

    return publish


@pytest.fixture
def expected(model_folder):
    """PyTorch's label and score."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = model_folder("bert")
    model, words = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        scores = model(**words(TEXT, return_tensors="pt")).logits.softmax(-1)[0]
    return f"LABEL {int(scores.argmax())}", pytest.approx(float(scores.max()), abs=1e-4)


@pytest.fixture
def sentences(moved_on, model_folder, tmp_path):
    """Publish a model of sentence_transformers; its main branch has other modules and another vocabulary."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer

    transformer = Transformer(str(model_folder("bert")))
    size = transformer.get_word_embedding_dimension()
    model = SentenceTransformer(modules=[transformer, Pooling(size, "cls"), Normalize()], device="cpu")
    model.save_pretrained(str(tmp_path / "saved"))
    SentenceTransformer(modules=[transformer, Pooling(size, "mean")], device="cpu").save_pretrained(
        str(tmp_path / "changed")
    )
    changed = {name: body for name, body in files_below(tmp_path / "changed").items() if name.endswith("json")}

    def publish(layout="onnx", embed="all"):
        about = {"pipeline_tag": "sentence-similarity", "library_name": "sentence-transformers"}
        return moved_on(
            "moved/sentences", tmp_path / "saved", {**changed, **changed_words(tmp_path)}, layout, embed, **about
        )

    return publish, model.encode(TEXT)
