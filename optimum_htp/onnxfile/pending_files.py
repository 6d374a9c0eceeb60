"""The hidden folder from which the files of an export are renamed to their places, and its check.

A folder of this name may come from another source: a clone, an archive, a shared folder. So it is used only if a
process of this user wrote it in this place. `files.json` contains the inode number and the change time of each file.
A copy has others, and no user can set a change time. Any other folder is rejected, and nothing is moved or deleted.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

from optimum_htp.errors import UnfinishedExportError
from optimum_htp.parsing import is_inside, parse_json

__all__ = ["NEW", "SWITCH", "files_left", "is_own", "write_list"]

SWITCH: Final = ".optimum-htp.switch"
NEW: Final = ".new"
_LIST: Final = "files.json"
_MOST: Final = 1 << 24  # Bytes of the list.


def is_own(status: os.stat_result) -> bool:
    """Whether a file or folder belongs to this user."""
    return not hasattr(os, "getuid") or status.st_uid == os.getuid()


def write_list(coming: Path, left: Mapping[str, Path]) -> None:
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


def files_left(output: Path) -> dict[str, Path]:
    """Return the pending files that an export of this user left here, with their target paths.

    Raises:
        UnfinishedExportError: The folder was not left by such an export.
    """
    coming = output / SWITCH
    try:
        names = _own_files(coming)
        known = _read_list(coming) if names else {}
        left = {name: Path(known[name]["name"]) for name in names}
        for name in names:
            place = PurePosixPath(known[name]["name"])
            if not is_inside(known[name]["name"]) or SWITCH in place.parts:
                raise ValueError(f"{name} does not belong in this folder")
            if known[name]["identity"] != _unforgeable((coming / name).lstat()):
                raise ValueError(f"{name} is a copy, or was changed")
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


def _read_list(coming: Path) -> dict[str, Any]:
    with (coming / _LIST).open("rb") as stream:
        content = parse_json(stream.read(_MOST))
    return dict(content)
