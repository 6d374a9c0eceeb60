"""Fixtures that several files of these tests use."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def file(zoo_export):
    return zoo_export("bert").output / "model.onnx"
