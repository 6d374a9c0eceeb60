"""Opens folders below a folder, without leaving it.

A folder from another source (a clone, an archive, a shared folder) may contain links. Files that are written "into a
folder" must not end up outside it. On POSIX the folders are opened one by one without following links, so a link that
appears after the check is not followed either.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final

__all__ = ["OpenFolder", "opened_below", "path_below"]

_BY_DESCRIPTOR: Final = {os.open, os.mkdir, os.rename, os.stat} <= os.supports_dir_fd
_FOLDER: Final = getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_PATH", os.O_RDONLY)


@dataclass(frozen=True)
class OpenFolder:
    """A folder, without links in its path, whose files are addressed relative to its descriptor.

    The descriptor is None if the system cannot address files relative to a folder (Windows).
    """

    path: Path
    descriptor: int | None

    def move(self, name: str, folder: OpenFolder, new: str) -> None:
        """Rename a file of this folder into another one."""
        os.replace(self._named(name), folder._named(new), src_dir_fd=self.descriptor, dst_dir_fd=folder.descriptor)

    def _named(self, name: str) -> str:
        return name if self.descriptor is not None else str(self.path / name)


def path_below(root: Path, folder: PurePath) -> Path:
    """Return the real path of a folder below another one, which need not exist; OSError if a link leads out of `root`.

    Links inside `root` may lead to other folders inside it; `root` itself may be a link.
    """
    home = Path(os.path.realpath(root))
    real = Path(os.path.realpath(home / folder))
    if not real.is_relative_to(home):
        raise OSError(f"{root / folder} leads out of {root} through a link")
    return real


@contextmanager
def opened_below(root: Path, folder: PurePath) -> Iterator[OpenFolder]:
    """Open a folder below another one, as `path_below`; create it if it does not exist."""
    real = path_below(root, folder)
    if not _BY_DESCRIPTOR:
        real.mkdir(parents=True, exist_ok=True)
        yield OpenFolder(real, None)
        return
    home = Path(os.path.realpath(root))
    descriptor = os.open(home, _FOLDER)
    try:
        for part in real.relative_to(home).parts:
            with suppress(FileExistsError):
                os.mkdir(part, dir_fd=descriptor)
            parent, descriptor = descriptor, os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=descriptor)
            os.close(parent)
        yield OpenFolder(real, descriptor)
    finally:
        os.close(descriptor)
