"""Writes an export into its output folder, so that the folder contains the old model or the new one after any failure.

Everything is written to a staging folder on the same filesystem, and is on the disk before the first file is moved. So
the output path contains:

- Before that, and after any failure (Ctrl-C, a full disk, a kill): the old content.
- A new folder appears with all its files in one step.
- In an existing folder, each file is the old or the new one at any moment; other files stay. A model of one file
  changes in one step. Of a model of several files, some are new and some are old for a few milliseconds. A load with
  this package then waits, and gets the old model or the new one; other programs may open files of both.
- If the process is killed in these milliseconds, the folder stays like that: it does not load
  (`ModelBeingReplacedError`), and the next export into it first moves the remaining files.
- Of several exports into a folder at the same time, one replaces the files after the other; the last one's files
  remain.

The next export next to a staging folder removes it if its process has ended.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from optimum_htp.errors import ExportError
from optimum_htp.onnxfile.folder_lock import folder_lock
from optimum_htp.onnxfile.replace_files import (
    finish_interrupted,
    is_own,
    replace_files,
    replacement_is_pending,
    sync_folders,
)
from optimum_htp.onnxfile.shared import refuse_shared

__all__ = ["publish", "staging_folder"]

_PREFIX: Final = ".optimum-htp-staging-"
_STAGING: Final = re.compile(re.escape(_PREFIX) + "[a-z0-9_]{8}")  # The names of tempfile.mkdtemp.
_TRIES: Final = 10


@contextmanager
def staging_folder(output: Path) -> Iterator[Path]:
    """Yield an empty folder from whose subfolders `publish` can rename into `output`; remove it afterwards.

    What a killed process left is completed or removed first.

    Raises:
        ExportError: The output is a file, or its folder cannot be written to.
        SharedFileError: The output is in a shared cache, such as the Hub's.
        UnfinishedExportError: The output has a hidden folder (see `replace_files`) that is not this user's.
    """
    if output.is_symlink() and not output.exists():
        raise ExportError(f"{output} is a link without a target. Pass another output path.")
    if output.exists() and not output.is_dir():
        raise ExportError(f"{output} is a file, not a folder. Pass another output path.")
    refuse_shared(output)
    with ExitStack() as held:
        try:
            finish_interrupted(output)
            parent = _staging_parent(output.absolute())
            _remove_abandoned(parent)
            folder = _own_folder(parent, held)
        except OSError as error:
            raise ExportError(
                f"{output} cannot be written: {error.strerror or error}. Pass another output path."
            ) from error
        yield folder


def publish(staged: Path, output: Path) -> None:
    """Move the content of a folder below a staging folder to `output`. Other existing files stay.

    ExportError if a file cannot be moved; the message contains whether others were.
    """
    try:
        _make_ready(staged)
        if not output.exists() and _appeared(staged, output):
            return
        with folder_lock(output):
            replace_files(staged, output)
    except OSError as error:
        if replacement_is_pending(output):
            raise ExportError(
                f"Some files in {output} were replaced, others could not be: {error}. Fix this, then export again "
                "into this folder: the export first moves the remaining files."
            ) from error
        reason = error.strerror or error
        raise ExportError(f"{output} cannot be written: {reason}. Nothing was changed.") from error


def _appeared(staged: Path, output: Path) -> bool:
    """Create a folder by a rename; False if another export has just created it."""
    output.absolute().parent.mkdir(parents=True, exist_ok=True)
    try:
        staged.rename(output)
    except OSError:
        if output.is_dir():
            return False
        raise
    sync_folders([output.absolute().parent])
    return True


def _make_ready(staged: Path) -> None:
    """Give all files the mode that they would have if they were written in place, and sync them to the disk.

    The mode is that of a file and a folder that are created for this purpose: a process can read its umask only by
    setting it, which affects its other threads.
    """
    probe = staged.parent / "probe"
    probe.mkdir(0o777)
    os.close(os.open(probe / "file", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    folder_mode, file_mode = (stat.S_IMODE(path.stat().st_mode) for path in (probe, probe / "file"))
    folders = [staged]
    for path in staged.rglob("*"):
        if path.is_symlink():
            continue  # The target of a link does not belong to the export.
        if path.is_dir():
            folders.append(path)
            continue
        descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        try:
            path.chmod(file_mode)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    for path in folders:
        path.chmod(folder_mode)
    sync_folders(folders)


def _own_folder(parent: Path, held: ExitStack) -> Path:
    """Return a new staging folder. It is locked while the stack is open, so that others know that it is in use."""
    for _ in range(_TRIES):
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        held.callback(shutil.rmtree, folder, ignore_errors=True)  # After the lock, which may be a file, is released.
        try:
            held.enter_context(folder_lock(folder, timeout=0))
        except (TimeoutError, FileNotFoundError):
            continue  # Another process is removing it as abandoned, because it was not locked yet.
        return folder
    raise TimeoutError(f"other processes keep removing new folders in {parent}")


def _remove_abandoned(parent: Path) -> None:
    """Remove the staging folders of ended processes."""
    for folder in parent.glob(f"{_PREFIX}*"):
        if not _is_own_folder(folder):
            continue
        try:
            with folder_lock(folder, timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # Its process is running, it was removed, or this is unknown.


def _is_own_folder(folder: Path) -> bool:
    """Whether a staging folder belongs to this user, and is not a link."""
    with suppress(OSError):
        status = folder.lstat()
        return bool(_STAGING.fullmatch(folder.name)) and stat.S_ISDIR(status.st_mode) and is_own(status)
    return False


def _staging_parent(output: Path) -> Path:
    """Return a folder on the output's filesystem: next to it, or inside it if that is not possible."""
    if output.is_dir():
        parent = output.resolve().parent
        same_device = parent.stat().st_dev == output.stat().st_dev
        return parent if same_device and os.access(parent, os.W_OK) else output
    return next(ancestor for ancestor in output.parents if ancestor.is_dir())
