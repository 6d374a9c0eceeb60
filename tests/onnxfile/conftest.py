"""Shared fixtures."""

from __future__ import annotations

import pytest

from tests.support.replacing import save


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("properties") / "model.onnx"


@pytest.fixture
def file(tmp_path):
    return save(tmp_path / "model.onnx")
