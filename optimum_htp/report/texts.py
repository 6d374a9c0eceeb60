"""Safe output of untrusted texts (from files, Hubs and other libraries), and JSON that every parser reads.

A name in a file can contain terminal escape sequences, line breaks, or bidirectional controls that reorder letters.
They are shown as escapes: `\\x1b`, `\\n`, `\\u202e`.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

__all__ = ["json_text", "printable", "sentence"]

_LAYOUT: Final = " \n"  # between JSON tokens; inside strings, line breaks are already escaped
_SPACE: Final = re.compile(r"\s*[\r\n]+\s*")


def printable(text: str) -> str:
    """Return a text on one line, with all characters that are not printable as Python escapes."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def sentence(text: str) -> str:
    """Return a message on one line: line breaks become spaces, other unprintable characters become escapes."""
    return printable(_SPACE.sub(" ", text.strip()))


def json_text(document: Any, indent: int | None = None, *, ascii_only: bool = False) -> str:
    """Return a document as strictly valid JSON without terminal control characters.

    NaN and infinity become null, because JSON has neither. Unprintable characters are escaped, and so are lone
    surrogates, which UTF-8 cannot encode. With `ascii_only`, everything outside ASCII is escaped, for streams of
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
    """Return plain data with NaN and infinity replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
