"""Marks of tests that do not run with every stack, or run with the slow tests."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from _pytest.mark import ParameterSet

_NEWEST = int(metadata.version("transformers").partition(".")[0]) >= 5

# Not available with transformers 5 and huggingface_hub 2; .github/CONTRIBUTING.md lists them.
without_bridges = pytest.mark.skipif(
    _NEWEST,
    reason="optimum-onnx cannot be imported with transformers 5 where this package is switched off or broken",
)


one_engine = pytest.mark.skipif(
    _NEWEST,
    reason="with transformers 5 its own exporters take over where optimum-onnx cannot export",
)


text2text = pytest.mark.skipif(
    _NEWEST,
    reason="transformers 5 has no pipeline for text2text-generation",
)


def slowly(*parameters: object) -> list[ParameterSet]:
    """Return parameters of a test that run with the slow tests."""
    return [pytest.param(one, marks=pytest.mark.slow) for one in parameters]
