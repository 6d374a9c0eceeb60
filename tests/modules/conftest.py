"""Models that several files of these tests use."""

from __future__ import annotations

import pytest


@pytest.fixture
def bert(zoo_export):
    made = zoo_export("bert")
    return made.output / "model.onnx", made.model
