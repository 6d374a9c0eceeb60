"""Parses untrusted content: JSON (files of models, responses of Hubs, lists, journals, properties), texts, file names,
commits, digests.

Such content may be very large, nested very deep, or contain numbers of a million digits. All JSON in this package is
read here, so content that exceeds the limits is a ValueError, like content that is not JSON. The values are still
untrusted: the code that uses a field checks its type.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeGuard

__all__ = [
    "LARGEST_JSON",
    "is_commit",
    "is_inside",
    "is_sha256",
    "is_text",
    "items_of",
    "json_or_none",
    "parse_json",
]

LARGEST_JSON: Final = 1 << 28  # Bytes.
_DEEPEST: Final = 100
_LONGEST_TEXT: Final = 4096  # Characters.
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_SEPARATORS: Final = re.compile(r"[/\\]")
_DRIVE: Final = re.compile(r"[A-Za-z]:")
_HAS_DRIVES: Final = os.name == "nt"  # On Windows, `name:x` is a stream of a file.


def parse_json(text: str | bytes, largest: int = LARGEST_JSON) -> Any:
    """Return the content of a JSON document; bytes are UTF-8.

    Raises:
        ValueError: It is not JSON, too long, or nested too deep.
    """
    if len(text) > largest:
        raise ValueError(f"it is longer than {largest} bytes")
    try:
        content = json.loads(text if isinstance(text, str) else text.decode("utf-8"))
    except RecursionError:  # Without a cause, because its traceback has a thousand entries.
        raise ValueError("it is nested too deep") from None
    except UnicodeDecodeError as error:
        raise ValueError("it is not JSON: it is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from error
    except ValueError as error:  # An integer with more digits than Python converts.
        raise ValueError("it has a number with too many digits") from error
    if not _depth_is_sane(content):
        raise ValueError("it is nested too deep")
    return content


def json_or_none(text: str | bytes) -> Any:
    """Return the content of a JSON document; None if `parse_json` rejects it."""
    try:
        return parse_json(text)
    except ValueError:
        return None


def _depth_is_sane(content: Any) -> bool:
    """Whether recursive code can walk through the content.

    The json module itself accepts nearly Python's recursion limit.
    """
    level = [content]
    for _ in range(_DEEPEST):
        level = [
            inner
            for value in level
            if isinstance(value, (dict, list))
            for inner in (value.values() if isinstance(value, dict) else value)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return True
    return False


def items_of(content: Any) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    """Yield all items of a document with their key paths. The nesting may be deeper than Python's recursion limit."""
    level: list[tuple[tuple[str, ...], Any]] = [((), content)] if isinstance(content, (Mapping, list)) else []
    while level:
        path, value = level.pop()
        inner = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in inner:
            yield path, str(key), item
            if isinstance(item, (Mapping, list)):
                level.append(((*path, str(key)), item))


def is_text(value: Any) -> bool:
    """Whether a value is a string that can be written into a file: bounded, and without lone surrogates."""
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_commit(value: Any) -> TypeGuard[str]:
    """Whether a value is a full commit: 40 hexadecimal digits, as of any SHA-1."""
    return isinstance(value, str) and _COMMIT.fullmatch(value) is not None


def is_sha256(value: Any) -> TypeGuard[str]:
    """Whether a value is a SHA-256 in hexadecimal digits."""
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def is_inside(name: Any) -> bool:
    """Whether a value is a relative path that stays inside its folder, on every system.

    This is the rule for file names in a file, a repo, a list, a manifest and a batch. External data has a different
    rule: `onnxfile.external.is_contained` follows ONNX.
    """
    if not is_text(name) or _DRIVE.match(name) or (_HAS_DRIVES and ":" in name):
        return False
    return not any(part in ("", ".", "..") for part in _SEPARATORS.split(name))
