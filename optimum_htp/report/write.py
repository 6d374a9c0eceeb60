"""Writing a report in the format that its file's name says."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
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
"""How a report is written, by the suffix of its file."""


_HEAD: Final = 1 << 16  # bytes that are looked at
_JSON: Final = re.compile(rb'\s*\{\s*(?:"report_version":|"one":.*"first_exceeded":)', re.DOTALL)
_TABLE: Final = re.compile(rb"^(?:- \*\*graph\*\*: \d+ nodes, |\| module \| max abs )", re.MULTILINE)
_LINES: Final = re.compile(rb"# .*\n(?:(?:[#|-].*)?\n)*(?:[#|-].*)?")


def _is_report(path: Path) -> bool:
    """Whether a file is a report or a comparison of ours, with nothing added to it."""
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
    """Return the path of a report, where a report can be written there.

    Args:
        path: The path.
        inputs: The files that it is of.
        force: Whether it may replace a file of another kind.

    Raises:
        ReportError: Its suffix is not known.
        ProtectedFileError: There is a file that a report may not replace.
    """
    path = _known_format(path)
    return check_output(path, _KIND, inputs=inputs, force=force)


def _known_format(path: str | os.PathLike[str]) -> Path:
    path = _expanded(Path(path))
    if path.suffix.lower() not in FORMATS:
        raise ReportError(f"{path} is not the name of a report. Pass a name that ends in {', '.join(FORMATS)}.")
    return path


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:  # there is no such user: then it is a name like others
        return path


def write_report(
    document: dict[str, Any],
    path: str | os.PathLike[str],
    inputs: Iterable[str | os.PathLike[str]] = (),
    *,
    force: bool = False,
) -> Path:
    """Write a report; return its path. `inputs` and `force` are those of `check_report_path`.

    Raises:
        ReportError: The suffix is not one of `FORMATS`.
        ProtectedFileError: There is a file that a report may not replace.
        OnnxWriteError: The file cannot be written. What was there still is.
    """
    path = _known_format(path)
    return write_text(FORMATS[path.suffix.lower()](document), path, inputs, force=force)


def write_text(text: str, path: Path, inputs: Iterable[str | os.PathLike[str]] = (), *, force: bool = False) -> Path:
    """Write the text of a report, whole or not at all, and the folders that it takes; return its path.

    Raises:
        ProtectedFileError: There is a file that a report may not replace.
        OnnxWriteError: The file cannot be written. What was there still is.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_document(text.encode("utf-8", "backslashreplace"), path, _KIND, inputs=inputs, force=force)
    except OSError as error:
        raise OnnxWriteError(
            f"{path} cannot be written: {error.strerror or error}. Nothing there was changed."
        ) from error
    return path
