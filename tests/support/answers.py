"""Comparing results: plain Python values, with equal labels, texts and spans, and close numbers."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import numpy as np

__all__ = ["assert_equal_answers"]

CLOSE = 1e-5


# transformers 5 decodes only the new tokens of a text, so a space before them is lost.
_SPACED = int(metadata.version("transformers").partition(".")[0]) < 5


def assert_equal_answers(found: Any, expected: Any, place: str = "answer") -> None:
    """Compare a result with the one of a transformers pipeline."""
    if isinstance(found, str) and not _SPACED:
        assert found.replace(" ", "") == expected.replace(" ", ""), place
        return
    if isinstance(expected, dict):
        assert isinstance(found, dict), place
        assert found.keys() == expected.keys(), place
        for key, value in expected.items():
            assert_equal_answers(found[key], value, f"{place}[{key!r}]")
    elif isinstance(expected, (list, tuple)):
        assert isinstance(found, list), f"{place}: {found}"
        assert len(found) == len(expected), f"{place}: {found} {expected}"
        for index, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_equal_answers(one, other, f"{place}[{index}]")
    elif isinstance(expected, (float, np.floating)):
        assert type(found) is float, f"{place}: {type(found)}"
        assert abs(found - float(expected)) < CLOSE, f"{place}: {found} {expected}"
    else:
        assert type(found) in (str, int, bool, type(None)), f"{place}: {type(found)}"
        assert found == expected, place
