"""How the files of an export take the place of others in a folder, and how they are read meanwhile.

Each file is replaced by one rename, so there is never none. Several files cannot be replaced at one moment. So all
that is to come is moved into the output folder first, in one step and under a hidden name, as `.optimum-htp.switch`:

    out/.optimum-htp.switch/encoder_model.onnx.new     complete and on the disk; named so that no search for
    out/.optimum-htp.switch/decoder_model.onnx.new     `*.onnx` finds it
    out/encoder_model.onnx                             still the old ones
    out/decoder_model.onnx

From this step on the new model is what will be there: file after file is renamed into place, and whoever comes upon
such a folder later, because its publisher was killed, only has to go on with what is left in it (`finish_switch`).
The folder's existence tells a reader that files next to it may be of two exports (`read_whole`). Nothing in it says
where to: its files go to the same names in the folder around it, so it can do no harm wherever it came from.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from optimum_htp.errors import ModelBeingReplacedError
from optimum_htp.onnxfile.folder_lock import folder_lock

__all__ = [
    "SWITCH",
    "Watch",
    "files_below",
    "finish_interrupted",
    "finish_switch",
    "read_whole",
    "replace_files",
    "switch_is_on",
    "sync_folders",
]

SWITCH: Final = ".optimum-htp.switch"
_NEW: Final = ".new"
_ATTEMPTS: Final = 20
_STALLED: Final = 2.0  # seconds without a file renamed; a switch of many files takes milliseconds
_POLL: Final = 0.01

Result = TypeVar("Result")


class Watch:
    """What a reader saw, to tell afterwards whether all of it is from before or after any switch.

    Files are to be seen before they are read. A whole switch may pass between two looks; the files are others then.
    """

    def __init__(self, *folders: Path) -> None:
        self._folders = list(folders)
        self._seen: dict[Path, tuple[int, ...] | None] = {}
        self._disturbed = bool(self.switching)

    def see(self, path: Path) -> None:
        """Note what a file is now, unless that is noted already."""
        if path not in self._seen:
            self._seen[path] = _identity(path)

    def see_folder(self, folder: Path) -> None:
        """Watch for switches in a further folder."""
        self._folders.append(folder)
        self._disturbed |= switch_is_on(folder)

    @property
    def switching(self) -> list[Path]:
        """The folders in which a switch goes on now."""
        return [folder for folder in self._folders if switch_is_on(folder)]

    @property
    def undisturbed(self) -> bool:
        """Whether nothing was replaced since the beginning."""
        return not (
            self._disturbed
            or self.switching
            or any(_identity(path) != identity for path, identity in self._seen.items())
        )


def read_whole(folder: Path, read: Callable[[Watch], Result]) -> Result:
    """Read files that belong together, again where some were replaced meanwhile.

    Args:
        folder: Where they are.
        read: Reads them, and tells the watch each one before. What it raises counts if nothing was replaced.

    Raises:
        ModelBeingReplacedError: The files are those of two exports, and stay so.
    """
    cause: Exception | None = None
    for _ in range(_ATTEMPTS):
        watch = Watch(folder)
        if not watch.switching:
            try:
                result = read(watch)
            except Exception as error:  # of files that change meanwhile it says nothing: they are read again
                if watch.undisturbed:
                    raise
                cause = error
            else:
                if watch.undisturbed:
                    return result
        for switching in watch.switching:
            _await_end(switching)
    raise ModelBeingReplacedError(
        f"The files in {folder} were replaced each time they were read: exports into it follow one another. Try "
        "again in a moment."
    ) from cause


def _await_end(folder: Path) -> None:
    """Wait for the end of a switch, as long as it moves."""
    state, since = _identity(folder / SWITCH), time.monotonic()
    while switch_is_on(folder):
        time.sleep(_POLL)
        if (now := _identity(folder / SWITCH)) != state:
            state, since = now, time.monotonic()
        elif time.monotonic() - since > _STALLED:
            raise ModelBeingReplacedError(
                f"The files in {folder} are being replaced by those of another export, so some are old and some new. "
                f"Try again in a moment. If no export is running, one was killed there: export again into {folder}, "
                "which finishes it."
            )


def switch_is_on(folder: Path) -> bool:
    """Whether the files in a folder are being replaced, or were when their publisher was killed."""
    try:
        return stat.S_ISDIR((folder / SWITCH).lstat().st_mode)
    except OSError:
        return False


def replace_files(staged: Path, output: Path) -> None:
    """Move the files of a staged folder into an output folder whose lock is held.

    Ctrl-C during the switch comes through when the switch is done.

    Args:
        staged: Complete and on the disk; on the output's filesystem.
        output: Exists.

    Raises:
        OSError: Something cannot be moved. Nothing was changed, unless `switch_is_on` says that some files were.
    """
    finish_switch(output)
    names = files_below(staged)
    _refuse_immovable(staged, names, output)
    if len(names) == 1:
        (staged / names[0]).replace(output / names[0])
        sync_folders([(output / names[0]).parent])
        return
    for name in reversed(names):  # where there is a name with the suffix too, it comes first
        (staged / name).rename((staged / name).with_name(name.name + _NEW))
    sync_folders({(staged / name).parent for name in names})
    try:
        staged.rename(output / SWITCH)
        sync_folders([output])
        finish_switch(output)
    except OSError:
        if len(files_below(output / SWITCH)) == len(names):
            (output / SWITCH).rename(staged)  # none was moved yet, so none has to be
        raise
    except BaseException:  # Ctrl-C among the moves: what has begun is finished
        finish_switch(output)
        raise


def finish_interrupted(output: Path) -> None:
    """Do what the publisher of a folder was killed over; one that is alive is waited for.

    Raises:
        OSError: Something cannot be moved.
    """
    if switch_is_on(output):
        with folder_lock(output):
            finish_switch(output)


def finish_switch(output: Path) -> None:
    """Move into place what is left of a switch, if there is one; the folder's lock is held.

    Raises:
        OSError: Something cannot be moved.
    """
    if not switch_is_on(output):
        return
    coming = output / SWITCH
    targets = []
    for name in files_below(coming):
        if name.name.endswith(_NEW):
            target = output / name.with_name(name.name.removesuffix(_NEW))
            target.parent.mkdir(parents=True, exist_ok=True)
            (coming / name).replace(target)
            targets.append(target)
    sync_folders({target.parent for target in targets})
    shutil.rmtree(coming)
    sync_folders([output])


def files_below(folder: Path) -> list[Path]:
    """Return the files in and below a folder, relative to it, sorted. Links to folders are not followed."""
    return sorted((Path(root) / name).relative_to(folder) for root, _, names in os.walk(folder) for name in names)


def sync_folders(folders: Iterable[Path]) -> None:
    """Have the names in folders on the disk, where the system and the filesystem can."""
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
    """Fail on what would stop a switch half way, and make the folders that it needs."""
    device = staged.stat().st_dev
    for name in names:
        target = output / name
        if target.is_dir():
            raise IsADirectoryError(f"{target} is a folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(target.parent, os.W_OK | os.X_OK):
            raise PermissionError(f"this user may not write to {target.parent}")
        if target.parent.stat().st_dev != device:
            raise OSError(f"{target.parent} is on another filesystem than {output}")


def _identity(path: Path) -> tuple[int, ...] | None:
    """Return what changes when another file takes a file's place; of a folder, when something in it does."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
