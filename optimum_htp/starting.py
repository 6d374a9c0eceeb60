"""Starts Python processes that import nothing from the current folder.

`python -c` and `python -m` put the current folder first on `sys.path`, and multiprocessing starts its helpers with
`-c`. So a file `torch.py` in that folder would run.
"""

from __future__ import annotations

import multiprocessing.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from optimum_htp.forking import ForkSafeLock

__all__ = ["command_of_module", "without_current_folder"]

_HAS_SAFE_PATH: Final = sys.version_info >= (3, 11)
_UTIL: Final[Any] = multiprocessing.util
_lock: Final = ForkSafeLock()
_active = 0


def _safe_flags() -> list[str]:
    """Return the flags for a process of multiprocessing: the usual ones, and one that excludes the current folder."""
    # Before Python 3.11, only isolated mode excludes it. multiprocessing sets `sys.path` in the process itself, so the
    # paths that isolated mode leaves out (PYTHONPATH, the user's packages) exist when a job runs.
    return [*_flags(), "-P" if _HAS_SAFE_PATH else "-I"]


_flags: Final[Any] = _UTIL._args_from_interpreter_flags


@contextmanager
def without_current_folder() -> Iterator[None]:
    """Let multiprocessing start its processes, its fork server and its resource tracker without the current folder.

    This uses a flag, because child processes of a job would inherit an environment variable.
    """
    global _active
    with _lock.held():
        _active += 1
        _UTIL._args_from_interpreter_flags = _safe_flags
    try:
        yield
    finally:
        with _lock.held():
            _active -= 1
            if not _active:
                _UTIL._args_from_interpreter_flags = _flags


def command_of_module(name: str) -> list[str]:
    """Return the command that runs a module like `python -m`, without the current folder."""
    if _HAS_SAFE_PATH:
        return [sys.executable, "-P", "-m", name]
    path = [place for place in sys.path if place]
    code = f"import sys; sys.path[:] = {path!r}; import runpy; runpy.run_module({name!r}, None, '__main__', True)"
    return [sys.executable, "-I", "-c", code]
