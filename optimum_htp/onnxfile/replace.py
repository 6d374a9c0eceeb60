"""Replacing a file in one step: whoever opens it finds the old one or the new one, and never a piece of either."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO, Final

__all__ = ["before_replacing", "current_umask", "replaced_atomically"]

_BUFFER: Final = 1 << 20  # bytes

before_replacing: Final[ContextVar[Callable[[], None] | None]] = ContextVar(
    "optimum_htp_before_replacing", default=None
)
"""Called right before a new file takes an old one's place; what it raises keeps the old one where it is."""


@contextmanager
def replaced_atomically(target: Path, like: Path | None = None) -> Iterator[BinaryIO]:
    """Write a file that takes the place of `target` when the block ends well, and vanishes when it does not.

    Args:
        target: The file.
        like: An existing file whose permissions a new `target` gets.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name[:80]}.", suffix=".tmp", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb", buffering=_BUFFER) as output:
            yield output
            output.flush()
            os.fsync(output.fileno())
        model = target if target.exists() else like
        if model is not None:
            shutil.copymode(model, temporary)
        else:
            temporary.chmod(0o666 & ~current_umask())
        if (check := before_replacing.get()) is not None:
            check()
        temporary.replace(target)
    except BaseException:  # whatever stopped the block, Ctrl-C included: leave nothing behind
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise


def current_umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    umask = os.umask(0)
    os.umask(umask)
    return umask
