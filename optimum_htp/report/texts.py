"""Texts of files, of Hubs and of other libraries as people may safely see them, and JSON that every parser reads.

A name in a file may hold what a terminal obeys (escape sequences), what makes one line look like two, or what turns
the order of letters around (bidirectional controls). Here it becomes visible: `\\x1b`, `\\n`, `\\u202e`.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

__all__ = ["json_text", "printable", "sentence"]

_LAYOUT: Final = " \n"  # of JSON itself; inside its strings line breaks are escaped already
_SPACE: Final = re.compile(r"\s*[\r\n]+\s*")


def printable(text: str) -> str:
    """Return a text in one line, with everything that is not printed as a sign written as Python writes it."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def sentence(text: str) -> str:
    """Return a message in one line: its line breaks are the words' own, and become spaces."""
    return printable(_SPACE.sub(" ", text.strip()))


def json_text(document: Any, indent: int | None = None, *, ascii_only: bool = False) -> str:
    """Return a document as JSON that is valid by the letter and holds nothing that steers a terminal.

    JSON has no NaN and no infinity: they become null. What is not printed as a sign is escaped, and so are halves of
    surrogate pairs, which UTF-8 cannot say. With `ascii_only` all that is not ASCII is escaped: for streams of
    another encoding.
    """
    try:
        text = json.dumps(document, indent=indent, ensure_ascii=ascii_only, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(document), indent=indent, ensure_ascii=ascii_only, allow_nan=False)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in _LAYOUT else json.dumps(char)[1:-1] for char in text)


def _finite(value: Any) -> Any:
    """Return plain data with None for what is no number."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
