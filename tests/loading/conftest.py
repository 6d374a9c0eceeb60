"""Fixtures that several files of these tests use."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def bert_file(exported, tmp_path):
    """A copy of an exported file, alone in its folder, under a name of its own."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    return Path(shutil.copy(exported("bert") / "model.onnx", folder / "classifier v2.onnx"))


@pytest.fixture
def t5_folder(exported, tmp_path):
    return Path(shutil.copytree(exported("t5"), tmp_path / "t5"))
