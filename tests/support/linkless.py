"""Processes that cannot make links, neither symbolic nor hard ones, as on filesystems without them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from shutil import which

import pytest

__all__ = ["LINKLESS", "linkless"]

_CALLS = """
#include <errno.h>
int symlink(const char *a, const char *b) { errno = EPERM; return -1; }
int symlinkat(const char *a, int d, const char *b) { errno = EPERM; return -1; }
int link(const char *a, const char *b) { errno = EPERM; return -1; }
int linkat(int c, const char *a, int d, const char *b, int e) { errno = EPERM; return -1; }
"""
_COMPILER = which("cc")

LINKLESS = pytest.mark.skipif(
    _COMPILER is None or not Path("/proc/self/fd").is_dir(), reason="a C compiler, and the loader of Linux"
)


def linkless(folder: Path) -> dict[str, str]:
    """Return environment variables for processes in which the system refuses to make links.

    Args:
        folder: Folder for the library that they load.
    """
    library = folder / "linkless.so"
    command = [str(_COMPILER), "-shared", "-fPIC", "-o", str(library), "-x", "c", "-"]
    subprocess.run(command, input=_CALLS, text=True, check=True)
    return {"LD_PRELOAD": str(library), "HF_HUB_DISABLE_SYMLINKS_WARNING": "1"}
