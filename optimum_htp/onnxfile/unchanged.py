"""Reads a file in several steps: all steps read the same file, or an error reports that it was replaced.

A program first reads the offsets of tensors, and later their content. In between, another program may replace the
file, or its external data. Then the offsets of the old file would select wrong bytes of the new one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from optimum_htp.errors import FileChangedError, OptimumHTPError
from optimum_htp.onnxfile.external import external_files
from optimum_htp.onnxfile.replace_file import before_replacing, identity_of
from optimum_htp.onnxfile.replace_files import Watch
from optimum_htp.onnxfile.wire import ByteWindow

__all__ = ["Check", "FileVersion", "check_of", "checked_before_replacing", "unchanged", "version_of"]

Check = Callable[[Exception | None], None]
"""Raises FileChangedError if a file was replaced or written to; takes the exception that this may have caused."""


@dataclass(frozen=True)
class FileVersion:
    """The state of a file when it was first read."""

    path: Path
    identity: tuple[int, ...]

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """Open the file.

        Raises:
            FileChangedError: It was replaced or written to.
        """
        try:
            stream = self.path.open("rb")
        except FileNotFoundError as error:
            raise changed(self.path) from error
        with stream:
            self.check(os.fstat(stream.fileno()))
            yield stream

    def check(self, status: os.stat_result) -> None:
        """Raise FileChangedError if a status does not belong to the same state."""
        if identity_of(status) != self.identity:
            raise changed(self.path)


def version_of(path: Path, window: ByteWindow) -> FileVersion:
    """Return the state of an open local file."""
    if window.descriptor is None:
        raise ValueError(f"{window.name} is not a file of this machine")
    return FileVersion(path, identity_of(os.fstat(window.descriptor)))


@contextmanager
def unchanged(*models: str | os.PathLike[str]) -> Iterator[None]:
    """Check that models and their external data do not change while the block reads them.

    Raises:
        FileChangedError: A file was replaced or written to meanwhile, so results and exceptions of the block may be
            wrong.
    """
    check = check_of(*models)
    try:
        yield
    except Exception as error:
        check(error)
        raise
    check(None)


def check_of(*models: str | os.PathLike[str]) -> Check:
    """Return a check of models and of their external data."""
    paths = [Path(model) for model in models]
    watch = Watch(*{path.parent for path in paths})
    for path in paths:
        watch.see(path)
        with suppress(OptimumHTPError):  # The block reports faults of the file.
            for folder in {path.parent, path.resolve().parent}:
                for name in external_files(path):
                    watch.see(folder / name)

    def check(cause: Exception | None) -> None:
        if not watch.undisturbed:
            raise changed(*paths) from cause

    return check


@contextmanager
def checked_before_replacing(check: Check) -> Iterator[None]:
    """Call a function before files that the block writes replace old ones, and after a failure of the block.

    An exception of the function keeps the old files.
    """
    earlier = before_replacing.get()

    def both() -> None:
        check(None)
        if earlier is not None:
            earlier()

    token = before_replacing.set(both)
    try:
        yield
    except Exception as error:
        check(error)
        raise
    finally:
        before_replacing.reset(token)


def changed(*paths: Path) -> FileChangedError:
    """Return the exception for changed files."""
    names = ", ".join(map(str, paths))
    return FileChangedError(f"{names} or its data was replaced or changed while it was read. Run the command again.")
