"""Replaces files of a folder by those of an export, and reads such files at the same time.

Each file is replaced by one rename, so it always exists. Several files cannot be replaced at one moment. So all new
files are first moved into the output folder, in one step and under a hidden name, as `.optimum-htp.switch`:

    out/.optimum-htp.switch/files.json                 the target path of each file
    out/.optimum-htp.switch/0.new                      complete and on the disk; `*.onnx` does not match
    out/.optimum-htp.switch/1.new                      these names
    out/encoder_model.onnx                             still the old files
    out/decoder_model.onnx

From this step on, the replacement will be completed: the files are renamed one by one. If the process is killed, the
next export into the folder continues with the remaining files (`finish_replacement`). If the hidden folder exists, a
reader knows that files next to it may be of two exports (`read_whole`).
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from optimum_htp.errors import ModelBeingReplacedError, UnfinishedExportError
from optimum_htp.onnxfile.folder_lock import folder_lock, locked_for_replacing
from optimum_htp.onnxfile.inside import opened_below, path_below
from optimum_htp.onnxfile.pending_files import NEW, SWITCH, files_left, write_list
from optimum_htp.onnxfile.replace_file import identity_of

__all__ = [
    "SWITCH",
    "Watch",
    "files_below",
    "finish_interrupted",
    "finish_replacement",
    "read_whole",
    "replace_files",
    "replacement_is_pending",
    "sync_folders",
]

_ATTEMPTS: Final = 20
_STALLED: Final = 2.0  # Seconds without a renamed file; a replacement of many files takes milliseconds.
_LONGEST: Final = 60.0  # Seconds to wait for a replacement in progress.
_POLL: Final = 0.01

Result = TypeVar("Result")


class Watch:
    """The state of files at reading, to find out afterwards whether all of them belong to one export.

    Files must be recorded before they are read. A whole replacement may happen between two checks; then the files
    differ.
    """

    def __init__(self, *folders: Path) -> None:
        self._folders = list(folders)
        self._seen: dict[Path, tuple[int, ...] | None] = {}
        self._disturbed = bool(self.switching)

    def see(self, path: Path) -> None:
        """Record the state of a file, unless it is already recorded."""
        if path not in self._seen:
            self._seen[path] = _identity(path)

    def see_folder(self, folder: Path) -> None:
        """Also check for replacements in another folder."""
        self._folders.append(folder)
        self._disturbed |= replacement_is_pending(folder)

    @property
    def switching(self) -> list[Path]:
        """The folders with a replacement in progress."""
        return [folder for folder in self._folders if replacement_is_pending(folder)]

    @property
    def undisturbed(self) -> bool:
        """Whether nothing was replaced since the beginning."""
        return not (
            self._disturbed
            or self.switching
            or any(_identity(path) != identity for path, identity in self._seen.items())
        )


def read_whole(folder: Path, read: Callable[[Watch], Result]) -> Result:
    """Read files that belong together, and repeat this if some were replaced meanwhile.

    Args:
        folder: Their folder.
        read: Reads them, and records each one in the watch before. Its exception counts if nothing was replaced.

    Raises:
        ModelBeingReplacedError: The files are of two exports, and this does not end.
    """
    cause: Exception | None = None
    for _ in range(_ATTEMPTS):
        watch = Watch(folder)
        if not watch.switching:
            try:
                result = read(watch)
            except (
                Exception
            ) as error:  # If files changed meanwhile, the exception says nothing about them: they are read again.
                if watch.undisturbed:
                    raise
                cause = error
            else:
                if watch.undisturbed:
                    return result
        for switching in watch.switching:
            _await_end(switching)
    raise ModelBeingReplacedError(
        f"The files in {folder} were replaced each time they were read, by one export after another. Try again in a "
        "moment."
    ) from cause


def _await_end(folder: Path) -> None:
    """Wait for the end of a replacement, as long as it makes progress."""
    began = since = time.monotonic()
    state = _identity(folder / SWITCH)
    while replacement_is_pending(folder):
        time.sleep(_POLL)
        if (seen := _identity(folder / SWITCH)) != state:
            state, since = seen, time.monotonic()
        if (now := time.monotonic()) - since > _STALLED or now - began > _LONGEST:
            raise ModelBeingReplacedError(
                f"An export is replacing the files in {folder}, so some are old and some are new. Try again in a "
                f"moment. If no export is running, {_remedy(folder)}."
            )


def _remedy(folder: Path) -> str:
    """Return the next step for a replacement that does not end."""
    try:
        files_left(folder)
    except UnfinishedExportError:
        return f"delete {folder / SWITCH}, which no export of this user left there, and export again"
    return f"one was killed: export again into {folder} to complete it"


def replacement_is_pending(folder: Path) -> bool:
    """Whether the files in a folder are being replaced, or were when the export was killed."""
    try:
        return stat.S_ISDIR((folder / SWITCH).lstat().st_mode)
    except OSError:
        return False


def replace_files(staged: Path, output: Path) -> None:
    """Move the files of a staged folder into an output folder whose lock is held.

    Ctrl-C during the replacement takes effect when the replacement is complete.

    Args:
        staged: Complete and on the disk, on the output's filesystem.
        output: An existing folder.

    Raises:
        OSError: A file cannot be moved. Nothing was changed, unless `replacement_is_pending` says so.
    """
    finish_replacement(output)
    names = files_below(staged)
    _refuse_immovable(staged, names, output)
    if len(names) == 1:
        _put(staged / names[0].parent, {names[0].name: names[0]}, output)
        return
    coming = staged.with_name("switch")
    coming.mkdir(0o700)
    left = {f"{number}{NEW}": name for number, name in enumerate(names)}
    for number, name in left.items():
        (staged / name).rename(coming / number)
    write_list(coming, left)
    sync_folders([coming])
    try:
        coming.rename(output / SWITCH)
        sync_folders([output])
        _finish(output, left)
    except OSError:
        if len(files_below(output / SWITCH)) > len(names):
            (output / SWITCH).rename(coming)  # No file was moved yet, so the replacement is cancelled.
        raise
    except BaseException:  # Ctrl-C during the moves: the replacement is completed.
        if replacement_is_pending(output):
            _finish(output, left)
        raise


def finish_interrupted(output: Path) -> None:
    """Complete the replacement of a killed export; wait for one that is running.

    Raises:
        OSError: A file cannot be moved.
        UnfinishedExportError: The hidden folder is not this user's. Nothing was moved.
    """
    if os.path.lexists(output / SWITCH):
        with folder_lock(output):
            finish_replacement(output)


def finish_replacement(output: Path) -> None:
    """Move the remaining pending files to their places, if there are any. The folder's lock is held.

    Raises:
        OSError: A file cannot be moved.
        UnfinishedExportError: The hidden folder is not this user's. Nothing was moved.
    """
    if os.path.lexists(output / SWITCH):
        _finish(output, files_left(output))


def _finish(output: Path, left: Mapping[str, Path]) -> None:
    """Move the remaining pending files, and remove the hidden folder."""
    there = {number: name for number, name in left.items() if os.path.lexists(output / SWITCH / number)}
    _put(output / SWITCH, there, output)
    shutil.rmtree(output / SWITCH)
    sync_folders([output])


def _put(source: Path, files: Mapping[str, Path], output: Path) -> None:
    """Rename files to their places in a folder, one after the other.

    Args:
        source: Their present folder.
        files: The target of each, relative to `output`, by its name in `source`.
        output: The folder.
    """
    folders = set()
    for name, place in files.items():
        with opened_below(output, place.parent) as home, opened_below(source, Path()) as coming:
            with locked_for_replacing(home.path / place.name, timeout=5.0, required=False):
                coming.move(name, home, place.name)
            folders.add(home.path)
    sync_folders(folders)


def files_below(folder: Path) -> list[Path]:
    """Return the files in and below a folder, relative to it, sorted. Links to folders are not followed."""
    return sorted((Path(root) / name).relative_to(folder) for root, _, names in os.walk(folder) for name in names)


def sync_folders(folders: Iterable[Path]) -> None:
    """Sync the names in folders to the disk, if the system and the filesystem support it."""
    if sys.platform == "win32":
        return
    for folder in folders:
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _refuse_immovable(staged: Path, names: Iterable[Path], output: Path) -> None:
    """Check everything that could stop a replacement midway, and create the needed folders."""
    device = staged.stat().st_dev
    for name in names:
        path_below(output, name.parent)  # Before any folder is created.
    for name in names:
        target = output / name
        if target.is_dir():
            raise IsADirectoryError(f"{target} is a folder")
        with opened_below(output, name.parent) as home:
            if not os.access(home.path, os.W_OK | os.X_OK):
                raise PermissionError(f"this user has no permission to write to {home.path}")
            if home.path.stat().st_dev != device:
                raise OSError(f"{target.parent} is on another filesystem than {output}")


def _identity(path: Path) -> tuple[int, ...] | None:
    """Return values that change when a file is replaced; for a folder, when its content changes."""
    try:
        status = path.stat()
    except OSError:
        return None
    return identity_of(status)
