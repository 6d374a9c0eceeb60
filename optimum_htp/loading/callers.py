"""Whether a revision that a call names is the user's wish, or what a library fills in for one who has named none."""

from __future__ import annotations

import dis
import sys
import sysconfig
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

__all__ = ["is_spelled_by_the_caller"]

_LIBRARIES: Final = frozenset({"diffusers", "optimum", "optimum_htp", "sentence_transformers", "transformers"})


def is_spelled_by_the_caller(text: str) -> bool:
    """Whether the call of the libraries has a text in it as it is written, and is not in a library itself.

    Wrappers have a default (`def load(name, revision="main")`), or an object with settings, and hand it on: the text
    is elsewhere then. A user who writes `from_pretrained(path, revision="main")` has it where the call is.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in _LIBRARIES:
        frame = frame.f_back
    return frame is not None and not _is_installed(frame.f_code) and text in _constants(frame)


def _constants(frame: FrameType) -> list[Any]:
    """Return the constants in the call that a frame is at; before Python 3.11, all of its function."""
    code = frame.f_code
    if not hasattr(code, "co_positions"):
        return list(code.co_consts)
    first, last, start, end = list(code.co_positions())[frame.f_lasti // 2]
    return [
        one.argval
        for one in dis.get_instructions(code)
        if one.opname.startswith("LOAD_CONST") and (at := one.positions) is not None
        if (first, start) <= (at.lineno, at.col_offset) and (at.end_lineno, at.end_col_offset) <= (last, end)
    ]


def _is_installed(code: CodeType) -> bool:
    path = Path(code.co_filename)
    return any(path.is_relative_to(sysconfig.get_path(name)) for name in ("purelib", "platlib", "stdlib"))
