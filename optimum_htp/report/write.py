"""Writing a report in the format that its file's name says."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from optimum_htp.errors import OnnxWriteError, ReportError
from optimum_htp.onnxfile import replaced_atomically
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


def check_report_path(path: str | os.PathLike[str]) -> Path:
    """Return the path of a report, where its suffix is one that is known.

    Raises:
        ReportError: It is not.
    """
    path = _expanded(Path(path))
    if path.suffix.lower() not in FORMATS:
        raise ReportError(f"{path} is no name for a report: let it end in {', '.join(FORMATS)}.")
    return path


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:  # there is no such user: then it is a name like others
        return path


def write_report(document: dict[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write a report; return its path.

    Raises:
        ReportError: The suffix is not one of `FORMATS`.
        OnnxWriteError: The file cannot be written. What was there still is.
    """
    path = check_report_path(path)
    return write_text(FORMATS[path.suffix.lower()](document), path)


def write_text(text: str, path: Path) -> Path:
    """Write a text, whole or not at all, and the folders that it takes; return its path.

    Raises:
        OnnxWriteError: The file cannot be written. What was there still is.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced_atomically(path) as stream:
            stream.write(text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise OnnxWriteError(f"{path} cannot be written: {error}. Nothing there was changed.") from error
    return path
