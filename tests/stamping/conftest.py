"""Shared fixtures."""

from __future__ import annotations

import shutil

import pytest


@pytest.fixture
def bert(exported, tmp_path):
    """A copy of a file for changes."""
    return shutil.copy(exported("bert") / "model.onnx", tmp_path / "model.onnx")


@pytest.fixture
def t5(exported, tmp_path):
    return shutil.copytree(exported("t5"), tmp_path / "t5", ignore=shutil.ignore_patterns("*.lock"))


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Hugging Face's home of this process, empty."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "optimum-htp" / "embedded"
