"""Putting an export into its output folder: the model that was there, or the new one, whatever happens meanwhile.

Everything is written to a staging folder on the same filesystem, and is on the disk before the first file goes to its
place. What somebody can find at the output path, then:

- Until then, and when anything fails until then (Ctrl-C, a full disk, a kill): what was there before.
- A folder that was not there appears with all its files in one step.
- In a folder that was there, each file is the old or the new one at any moment; files that the export does not have
  stay. A model of one file changes in one step. Of a model of several files, some are new and some are old for a few
  milliseconds. Whoever loads it with this package then waits, and gets the old model or the new one; other programs
  can open files of both.
- Killed in these milliseconds, the folder stays like that, and says so: it does not load (`ModelBeingReplacedError`),
  and the next export into it first puts the remaining files in place, which it still has.
- Of several exports into a folder at the same time, one publishes after the other: the last one's files are there.

A staging folder whose process is gone is removed by the next export beside it.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from optimum_htp.errors import ExportError
from optimum_htp.onnxfile.folder_lock import folder_lock
from optimum_htp.onnxfile.pending_files import is_own
from optimum_htp.onnxfile.replace_files import finish_interrupted, replace_files, replacement_is_pending, sync_folders
from optimum_htp.onnxfile.shared import refuse_shared

__all__ = ["publish", "staging_folder"]

_PREFIX: Final = ".optimum-htp-staging-"
_STAGING: Final = re.compile(re.escape(_PREFIX) + "[a-z0-9_]{8}")  # as tempfile.mkdtemp names folders
_TRIES: Final = 10


@contextmanager
def staging_folder(output: Path) -> Iterator[Path]:
    """Yield an empty folder from whose subfolders `publish` can rename into `output`; remove it afterwards.

    What an earlier process left there, killed while it published or before, is put in order first.

    Raises:
        ExportError: The output is a file, or its place cannot be written to.
        SharedFileError: The output is in a cache that others share, such as the Hub's.
        UnfinishedExportError: The output has a switch (see `replace_files`) that is not this user's.
    """
    if output.is_symlink() and not output.exists():
        raise ExportError(f"{output} is a link to nothing. Name another output path.")
    if output.exists() and not output.is_dir():
        raise ExportError(f"{output} is a file, not a folder. Name another output path.")
    refuse_shared(output)
    with ExitStack() as held:
        try:
            finish_interrupted(output)
            parent = _staging_parent(output.absolute())
            _remove_abandoned(parent)
            folder = _own_folder(parent, held)
        except OSError as error:
            raise ExportError(f"{output} cannot be written: {error}. Name another output path.") from error
        yield folder


def publish(staged: Path, output: Path) -> None:
    """Move the content of a folder below a staging folder to `output`; other files that are there stay.

    Raises:
        ExportError: Something cannot be moved. The message says whether anything was.
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
                f"Some files in {output} were replaced and others could not be: {error}. Once that is mended, export "
                "again into this folder: it puts the remaining ones in place first."
            ) from error
        raise ExportError(
            f"{output} cannot be written: {error.strerror or error}. Nothing there was changed."
        ) from error


def _appeared(staged: Path, output: Path) -> bool:
    """Make a folder appear where there is none; False where another export's just did."""
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
    """Give everything the mode that it would have if it had been written in place, and have it on the disk.

    The mode is that of a file and a folder made here for that: a process's umask can only be read by setting it, and
    then counts for its other threads too.
    """
    probe = staged.parent / "probe"
    probe.mkdir(0o777)
    os.close(os.open(probe / "file", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    folder_mode, file_mode = (stat.S_IMODE(path.stat().st_mode) for path in (probe, probe / "file"))
    folders = [staged]
    for path in staged.rglob("*"):
        if path.is_symlink():
            continue  # what it leads to is not ours
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
    """Return a new staging folder, locked as long as the stack is open: that is how others know it is in use."""
    for _ in range(_TRIES):
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        held.callback(shutil.rmtree, folder, ignore_errors=True)  # when the lock, which may be a file, is released
        try:
            held.enter_context(folder_lock(folder, timeout=0))
        except (TimeoutError, FileNotFoundError):
            continue  # another process is just removing it as abandoned, because it was not locked yet
        return folder
    raise TimeoutError(f"other processes keep removing new folders in {parent}")


def _remove_abandoned(parent: Path) -> None:
    """Remove the staging folders of processes that are gone."""
    for folder in parent.glob(f"{_PREFIX}*"):
        if not _is_own_folder(folder):
            continue
        try:
            with folder_lock(folder, timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # its process is alive, or it is gone, or nobody can tell


def _is_own_folder(folder: Path) -> bool:
    """Whether a folder is one that this user made, rather than a link or another user's in a shared place."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    return bool(_STAGING.fullmatch(folder.name)) and stat.S_ISDIR(status.st_mode) and is_own(status)


def _staging_parent(output: Path) -> Path:
    """Return a folder on the output's filesystem: beside it, or where that cannot be, inside it."""
    if output.is_dir():
        parent = output.resolve().parent
        same_device = parent.stat().st_dev == output.stat().st_dev
        return parent if same_device and os.access(parent, os.W_OK) else output
    return next(ancestor for ancestor in output.parents if ancestor.is_dir())
