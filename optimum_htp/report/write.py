"""Writes a report in the format of its file suffix."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from optimum_htp.errors import OnnxWriteError, ReportError
from optimum_htp.onnxfile.outputs import OutputKind, check_output, write_document
from optimum_htp.report.html import as_html
from optimum_htp.report.markdown import as_markdown
from optimum_htp.report.texts import json_text

__all__ = ["FORMATS", "check_report_path", "write_report", "write_text"]

FORMATS: Final[Mapping[str, Callable[[dict[str, Any]], str]]] = {
    ".json": lambda document: json_text(document, indent=1) + "\n",
    ".md": as_markdown,
    ".html": as_html,
}
"""The function that formats a report, by file suffix."""


_HEAD: Final = 1 << 16  # bytes read to recognize a report
_JSON: Final = re.compile(rb'\s*\{\s*(?:"report_version":|"one":.*"first_exceeded":)', re.DOTALL)
_TABLE: Final = re.compile(rb"^(?:- \*\*graph\*\*: \d+ nodes, |\| module \| max abs )", re.MULTILINE)
_LINES: Final = re.compile(rb"# .*\n(?:(?:[#|-].*)?\n)*(?:[#|-].*)?")


def _is_report(path: Path) -> bool:
    """Whether a file is an unmodified report or comparison of this package."""
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
    if head.startswith(b"<!DOCTYPE html>"):
        return b'<script id="report" type="application/json">' in path.read_bytes()
    if head.startswith(b"# "):
        return _TABLE.search(head) is not None and _LINES.fullmatch(path.read_bytes()) is not None
    return _JSON.match(head) is not None


_KIND: Final = OutputKind("a report", _is_report)


def check_report_path(
    path: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str]] = (), *, force: bool = False
) -> Path:
    """Return the expanded path of a report, after a check that the report can be written.

    It must not replace its inputs, nor an existing file that is not a report, unless `force` is set.
    """
    return check_output(_known_format(path), _KIND, inputs=inputs, force=force)


def _known_format(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    with suppress(RuntimeError):  # unknown user: `~name` is an ordinary name
        path = path.expanduser()
    if path.suffix.lower() not in FORMATS:
        raise ReportError(f"{path}: unsupported report format. Use {', '.join(FORMATS)}.")
    return path


def write_report(
    document: dict[str, Any],
    path: str | os.PathLike[str],
    inputs: Iterable[str | os.PathLike[str]] = (),
    *,
    force: bool = False,
) -> Path:
    """Write a report and return its path.

    Args:
        document: The report.
        path: The path.
        inputs: The ONNX files of the report, which it must not replace.
        force: Whether to replace an existing file that is not a report.

    Raises:
        ReportError: The suffix is not one of `FORMATS`.
        ProtectedFileError: A report must not replace the existing file.
        OnnxWriteError: The file cannot be written. An existing file is unchanged.
    """
    path = _known_format(path)
    return write_text(FORMATS[path.suffix.lower()](document), path, inputs, force=force)


def write_text(text: str, path: Path, inputs: Iterable[str | os.PathLike[str]] = (), *, force: bool = False) -> Path:
    """Write the text of a report atomically, create its folder, and return its path."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_document(text.encode("utf-8", "backslashreplace"), path, _KIND, inputs=inputs, force=force)
    except OSError as error:
        reason = error.strerror or error
        raise OnnxWriteError(f"{path} cannot be written: {reason}. Nothing was changed.") from error
    return path
