"""Reads lists of models: text with one model per line, JSON lines, or a JSON array.

A file in UTF-8 or UTF-16 (with a byte order mark) is read. CSV, YAML and other formats are rejected by name.
"""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Final

from optimum_htp.errors import BatchListError
from optimum_htp.parsing import json_or_none, parse_json

__all__ = ["lines_of_file", "lines_of_text"]

_ADVICE: Final = "Write one model per line, as NAME, ORG/NAME or a JSON object."
_ENCODINGS: Final = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_SUFFIXES: Final = {".csv": "CSV", ".tsv": "CSV", ".yaml": "YAML", ".yml": "YAML"}


def lines_of_file(path: Path) -> list[str]:
    """Return the lines of a list.

    Args:
        path: The file.

    Raises:
        BatchListError: The file cannot be read, or is not a list of models.
    """
    if path.is_dir():
        raise BatchListError(f"{path} is a folder, not a list of models. Pass a text file with one model per line.")
    try:
        data = path.read_bytes()
        encoding = next((name for mark, name in _ENCODINGS.items() if data.startswith(mark)), "utf-8")
        text = data.decode(encoding)
    except OSError as error:
        raise BatchListError(
            f"The list {path} cannot be read: {error.strerror or error}. Pass a text file with one model per line."
        ) from error
    except UnicodeDecodeError as error:
        raise BatchListError(f"{path} is not a text file in UTF-8 or UTF-16. {_ADVICE}") from error
    if (kind := _SUFFIXES.get(path.suffix.lower())) is not None:
        raise BatchListError(f"{path} is a {kind} file. {_ADVICE}")
    return lines_of_text(text, str(path))


def lines_of_text(text: str, name: str) -> list[str]:
    """Return the lines of a list; the entries of a JSON array become lines.

    Args:
        text: The content of the list.
        name: Name of the list in messages.

    Raises:
        BatchListError: The text is not a list of models.
    """
    text = text.removeprefix("\ufeff")
    if "\0" in text:
        raise BatchListError(f"{name} is not a text file. {_ADVICE}")
    start = text.lstrip()
    if start.startswith("["):
        return _lines_of_array(start, name)
    document = json_or_none(start) if start.startswith("{") else None
    if isinstance(document, dict) and "model" not in document:
        raise BatchListError(f'{name} is a JSON document without "model". Pass a manifest with --from-manifest.')
    lines = [json.dumps(document)] if isinstance(document, dict) else text.splitlines()
    for number, line in enumerate(lines, start=1):
        if (kind := _other_format(line.strip())) is not None:
            raise BatchListError(f"{name}, line {number} is {kind}. {_ADVICE}")
    return lines


def _lines_of_array(text: str, name: str) -> list[str]:
    try:
        entries = parse_json(text)
    except ValueError as error:
        raise BatchListError(f"{name} is not a valid JSON array: {error}. {_ADVICE}") from error
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, (str, dict)):
            raise BatchListError(f"{name}: entry {number} is neither a text nor a JSON object. {_ADVICE}")
    return [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]


def _other_format(line: str) -> str | None:
    """Return the format of a line that is neither a name nor a JSON object, or None."""
    if not line or line.startswith(("#", "{")):
        return None
    try:
        if Path(line).exists():
            return None
    except (OSError, ValueError):
        return None  # rejected later, as a model
    if line == "---" or line.startswith("- ") or line.endswith(":") or ": " in line:
        return "YAML"
    return "CSV" if "," in line or "\t" in line or ";" in line else None
