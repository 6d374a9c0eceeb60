"""An output folder that appears whole or not at all.

Everything is written to a staging folder on the same filesystem. When all is well, its files are renamed into
place; when anything goes wrong, Ctrl-C included, what stood at the output path before still stands there.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from optimum_htp.errors import ExportError

__all__ = ["publish", "staging_folder"]

_PREFIX: Final = ".optimum-htp-"


@contextmanager
def staging_folder(output: Path) -> Iterator[Path]:
    """Yield an empty folder from whose subfolders `publish` can rename into `output`; remove it afterwards.

    Raises:
        ExportError: The output is a file, or its place cannot be written to.
    """
    if output.is_symlink() and not output.exists():
        raise ExportError(f"{output} is a link to nothing. Name another output path.")
    if output.exists() and not output.is_dir():
        raise ExportError(f"{output} is a file, not a folder. Name another output path.")
    try:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_staging_parent(output.absolute())))
    except OSError as error:
        raise ExportError(f"{output} cannot be written: {error}. Name another output path.") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(staged: Path, output: Path) -> None:
    """Move the content of a folder below a staging folder to `output`; other files that are there stay.

    Raises:
        ExportError: Something cannot be moved. What was moved before is moved back.
    """
    _apply_umask(staged)
    try:
        if output.exists():
            _merge(staged, output)
        else:
            output.absolute().parent.mkdir(parents=True, exist_ok=True)
            staged.rename(output)
    except OSError as error:
        raise ExportError(f"{output} cannot be written: {error}. Nothing there was changed.") from error


def _merge(staged: Path, output: Path) -> None:
    """Move file by file, keeping each file that is replaced until all are in place."""
    names = sorted(path.relative_to(staged) for path in staged.rglob("*") if path.is_file())
    kept = Path(tempfile.mkdtemp(dir=staged.parent))
    moved: list[tuple[Path, Path | None]] = []
    try:
        for name in names:
            target, before = output / name, kept / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                before.parent.mkdir(parents=True, exist_ok=True)
                target.rename(before)
                moved.append((target, before))
            else:
                moved.append((target, None))
            (staged / name).rename(target)
    except BaseException:  # Ctrl-C too has to bring the old files back
        for target, old in reversed(moved):
            if old is not None:
                old.replace(target)
            else:
                target.unlink(missing_ok=True)
        raise


def _apply_umask(folder: Path) -> None:
    """Give everything the mode that it would have had if it had been written in place."""
    umask = os.umask(0)
    os.umask(umask)
    for path in (folder, *folder.rglob("*")):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)


def _staging_parent(output: Path) -> Path:
    """Return a folder on the output's filesystem: beside it, or where that cannot be, inside it."""
    if output.is_dir():
        parent = output.resolve().parent
        same_device = parent.stat().st_dev == output.stat().st_dev
        return parent if same_device and os.access(parent, os.W_OK) else output
    return next(ancestor for ancestor in output.parents if ancestor.is_dir())
