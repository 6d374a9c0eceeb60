"""How the files of an export take the place of others in a folder, and how they are read meanwhile.

Each file is replaced by one rename, so there is never none. Several files cannot be replaced at one moment. So all
new files are moved into the output folder first, in one step and under a hidden name, as `.optimum-htp.switch`:

    out/.optimum-htp.switch/files.json                 where each file belongs
    out/.optimum-htp.switch/0.new                      complete and on the disk; named so that no search for
    out/.optimum-htp.switch/1.new                      `*.onnx` finds it
    out/encoder_model.onnx                             still the old ones
    out/decoder_model.onnx

From this step on the new model is what will be there: file after file is renamed into place, and the next export into
such a folder, after its publisher was killed, only has to continue with what is left in it (`finish_replacement`). The
folder's existence tells a reader that files next to it may be of two exports (`read_whole`).
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
_STALLED: Final = 2.0  # seconds without a file renamed; a switch of many files takes milliseconds
_LONGEST: Final = 60.0  # seconds to wait for a switch in which something moves
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
        self._disturbed |= replacement_is_pending(folder)

    @property
    def switching(self) -> list[Path]:
        """The folders in which a switch goes on now."""
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
    began = since = time.monotonic()
    state = _identity(folder / SWITCH)
    while replacement_is_pending(folder):
        time.sleep(_POLL)
        if (seen := _identity(folder / SWITCH)) != state:
            state, since = seen, time.monotonic()
        if (now := time.monotonic()) - since > _STALLED or now - began > _LONGEST:
            raise ModelBeingReplacedError(
                f"The files in {folder} are being replaced by those of another export, so some are old and some new. "
                f"Try again in a moment. If no export is running, {_remedy(folder)}."
            )


def _remedy(folder: Path) -> str:
    """Return what to do about a switch that does not end."""
    try:
        files_left(folder)
    except UnfinishedExportError:
        return f"delete {folder / SWITCH}, which no export of this user left there, and export again"
    return f"one was killed there: export again into {folder}, which finishes it"


def replacement_is_pending(folder: Path) -> bool:
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
            (output / SWITCH).rename(coming)  # none was moved yet, so none has to be
        raise
    except BaseException:  # Ctrl-C among the moves: what has begun is finished
        if replacement_is_pending(output):
            _finish(output, left)
        raise


def finish_interrupted(output: Path) -> None:
    """Do what the publisher of a folder was killed over; one that is alive is waited for.

    Raises:
        OSError: Something cannot be moved.
        UnfinishedExportError: What is there is not this user's. Nothing was moved.
    """
    if os.path.lexists(output / SWITCH):
        with folder_lock(output):
            finish_replacement(output)


def finish_replacement(output: Path) -> None:
    """Move into place what is left of a switch, if there is one; the folder's lock is held.

    Raises:
        OSError: Something cannot be moved.
        UnfinishedExportError: What is there is not this user's. Nothing was moved.
    """
    if os.path.lexists(output / SWITCH):
        _finish(output, files_left(output))


def _finish(output: Path, left: Mapping[str, Path]) -> None:
    """Move the files of a switch that are still in it, and remove it."""
    there = {number: name for number, name in left.items() if os.path.lexists(output / SWITCH / number)}
    _put(output / SWITCH, there, output)
    shutil.rmtree(output / SWITCH)
    sync_folders([output])


def _put(source: Path, files: Mapping[str, Path], output: Path) -> None:
    """Rename files to their places in a folder, one after the other.

    Args:
        source: Where they are now.
        files: Where each belongs, relative to `output`, by its name in `source`.
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
        path_below(output, name.parent)  # before any folder is made
    for name in names:
        target = output / name
        if target.is_dir():
            raise IsADirectoryError(f"{target} is a folder")
        with opened_below(output, name.parent) as home:
            if not os.access(home.path, os.W_OK | os.X_OK):
                raise PermissionError(f"this user may not write to {home.path}")
            if home.path.stat().st_dev != device:
                raise OSError(f"{target.parent} is on another filesystem than {output}")


def _identity(path: Path) -> tuple[int, ...] | None:
    """Return what changes when another file takes a file's place; of a folder, when something in it does."""
    try:
        status = path.stat()
    except OSError:
        return None
    return identity_of(status)
