"""Replaces files of a folder by those of an export, and reads such files at the same time.

Each file is replaced by one rename, so it always exists. Several files cannot be replaced at one moment. So all new
files are first moved into the output folder, in one step and under a hidden name, as `.optimum-htp.switch`:

    out/.optimum-htp.switch/files.json                 the target path of each file
    out/.optimum-htp.switch/0.new                      complete and on the disk; `*.onnx` does not match
    out/.optimum-htp.switch/1.new                      these names
    out/encoder_model.onnx                             still the old files
    out/decoder_model.onnx

From this step on, the replacement will be completed: the files are renamed one by one. If the process is killed, the
next export into the folder continues with the remaining files (`finish_interrupted`). If the hidden folder exists, a
reader knows that files next to it may be of two exports (`read_whole`).

A hidden folder of this name may come from another source: a clone, an archive, a shared folder. So it is used only if
a process of this user wrote it in this place. `files.json` contains the inode number and the change time of each file.
A copy has others, and no user can set a change time. Any other folder is rejected, and nothing is moved or deleted.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeVar

from optimum_htp.errors import ModelBeingReplacedError, UnfinishedExportError
from optimum_htp.onnxfile.folder_lock import folder_lock, locked_for_replacing
from optimum_htp.onnxfile.inside import opened_below, path_below
from optimum_htp.onnxfile.replace_file import identity_of
from optimum_htp.parsing import is_inside, parse_json

__all__ = [
    "SWITCH",
    "Watch",
    "files_below",
    "finish_interrupted",
    "is_own",
    "read_whole",
    "replace_files",
    "replacement_is_pending",
    "sync_folders",
]

SWITCH: Final = ".optimum-htp.switch"
_LIST: Final = "files.json"
_LONGEST_LIST: Final = 1 << 24  # Bytes.
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
    """Read files of a folder that belong together, and repeat this if some were replaced meanwhile.

    The function records each file in the watch before it reads it. Its exception counts if nothing was replaced.
    ModelBeingReplacedError if the files are of two exports, and this does not end.
    """
    cause: Exception | None = None
    for _ in range(_ATTEMPTS):
        watch = Watch(folder)
        if not watch.switching:
            try:
                result = read(watch)
            except Exception as error:
                if watch.undisturbed:  # Otherwise, the exception says nothing about the files: they are read again.
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
        _files_left(folder)
    except UnfinishedExportError:
        return f"delete {folder / SWITCH}, which no export of this user left there, and export again"
    return f"one was killed: export again into {folder} to complete it"


def replacement_is_pending(folder: Path) -> bool:
    """Whether the files in a folder are being replaced, or were when the export was killed."""
    with suppress(OSError):
        return stat.S_ISDIR((folder / SWITCH).lstat().st_mode)
    return False


def replace_files(staged: Path, output: Path) -> None:
    """Move the files of a staged folder into an existing folder whose lock is held.

    They are complete and on the disk, on the same filesystem. Ctrl-C during the replacement takes effect when it is
    complete. After an OSError nothing was changed, unless `replacement_is_pending` says so.
    """
    _finish_pending(output)
    names = files_below(staged)
    _refuse_immovable(staged, names, output)
    if len(names) == 1:
        _put(staged / names[0].parent, {names[0].name: names[0]}, output)
        return
    coming = staged.with_name("switch")
    coming.mkdir(0o700)
    left = {f"{number}.new": name for number, name in enumerate(names)}
    for number, name in left.items():
        (staged / name).rename(coming / number)
    _write_list(coming, left)
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

    UnfinishedExportError if the hidden folder is not this user's; nothing was moved.
    """
    if os.path.lexists(output / SWITCH):
        with folder_lock(output):
            _finish_pending(output)


def _finish_pending(output: Path) -> None:
    if os.path.lexists(output / SWITCH):
        _finish(output, _files_left(output))


def _finish(output: Path, left: Mapping[str, Path]) -> None:
    """Move the remaining pending files, and remove the hidden folder."""
    there = {number: name for number, name in left.items() if os.path.lexists(output / SWITCH / number)}
    _put(output / SWITCH, there, output)
    shutil.rmtree(output / SWITCH)
    sync_folders([output])


def _put(source: Path, files: Mapping[str, Path], output: Path) -> None:
    """Rename the files of a folder, one after the other, to their places relative to another folder."""
    folders = set()
    for name, place in files.items():
        with opened_below(output, place.parent) as home, opened_below(source, Path()) as coming:
            with locked_for_replacing(home.path / place.name, timeout=5.0, required=False):
                coming.move(name, home, place.name)
            folders.add(home.path)
    sync_folders(folders)


def _write_list(coming: Path, left: Mapping[str, Path]) -> None:
    """Write the list of the pending files with their target paths."""
    content = {
        number: {"name": name.as_posix(), "identity": _unforgeable((coming / number).lstat())}
        for number, name in left.items()
    }
    with (coming / _LIST).open("x", encoding="utf-8") as stream:
        json.dump(content, stream)
        stream.flush()
        os.fsync(stream.fileno())


def _unforgeable(status: os.stat_result) -> list[int]:
    return [status.st_ino, status.st_ctime_ns, status.st_size]


def _files_left(output: Path) -> dict[str, Path]:
    """Return the pending files of an export of this user, with their target paths; else UnfinishedExportError."""
    coming = output / SWITCH
    left = {}
    try:
        names = _own_files(coming)
        known = _read_list(coming) if names else {}
        for name in names:
            place = known[name]["name"]
            if not is_inside(place) or SWITCH in PurePosixPath(place).parts:
                raise ValueError(f"{name} does not belong in this folder")
            if known[name]["identity"] != _unforgeable((coming / name).lstat()):
                raise ValueError(f"{name} is a copy, or was changed")
            left[name] = Path(place)
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise UnfinishedExportError(
            f"No export of this user left {coming} here ({error or type(error).__name__}). Nothing was moved. Delete "
            f"{coming} and export again."
        ) from error
    return left


def _own_files(coming: Path) -> list[str]:
    """Return the names of the pending files, without the list."""
    status = coming.lstat()
    if not stat.S_ISDIR(status.st_mode) or not is_own(status):
        raise ValueError("it is not a folder of this user")
    names = sorted(os.listdir(coming))  # noqa: PTH208 - only the names are wanted
    for name in names:
        status = (coming / name).lstat()
        if not stat.S_ISREG(status.st_mode) or not is_own(status) or status.st_nlink > 1:
            raise ValueError(f"{name} is not a file of this user with a single name")
    return [name for name in names if name != _LIST]


def is_own(status: os.stat_result) -> bool:
    """Whether a file or folder belongs to this user."""
    return not hasattr(os, "getuid") or status.st_uid == os.getuid()


def _read_list(coming: Path) -> dict[str, Any]:
    with (coming / _LIST).open("rb") as stream:
        return dict(parse_json(stream.read(_LONGEST_LIST)))


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
    with suppress(OSError):
        return identity_of(path.stat())
    return None
