"""Models that several test files use."""

from __future__ import annotations

import pytest


@pytest.fixture
def bert(zoo_export):
    made = zoo_export("bert")
    return made.output / "model.onnx", made.model
