"""Caches whose files other commits and programs share. Nothing may be written to them in place.

These caches name a file by its content. A change of the file would change every commit that contains it, for every
program. Most of these files are reached through links.
"""

from __future__ import annotations

import os
import re
import stat
from itertools import pairwise
from pathlib import Path
from typing import Final

from optimum_htp.errors import SharedFileError
from optimum_htp.parsing import is_commit

__all__ = ["refuse_shared", "unshared_path"]

_STORES: Final = (("annex", "objects"), (".dvc", "cache"), (".git", "lfs"))
_REPO: Final = re.compile(r"(?:models|datasets|spaces)--")
_DIGEST: Final = re.compile(r"(?:[A-Za-z0-9]+[-:])?[0-9a-f]{30,128}(?:\.\w+)?")
_WRITABLE: Final = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


def unshared_path(path: str | os.PathLike[str]) -> Path:
    """Return the real path of a file to write; SharedFileError if it is in a shared cache."""
    refuse_shared(path)
    return Path(os.path.realpath(path))


def refuse_shared(path: str | os.PathLike[str]) -> None:
    """Raise SharedFileError for an output, a file or folder, in a shared cache."""
    link, real = Path(path), Path(os.path.realpath(path))
    if _is_in_store(real) or (link.is_symlink() and _is_foreign_content(link, real)):
        raise SharedFileError(
            f"{path} is in a cache that other commits and programs share ({real}), so it was not changed. Name "
            "another file or folder with -o/--output, or copy it out of the cache first: `cp -L`."
        )


def _is_in_store(real: Path) -> bool:
    """Whether a path is in a cache of a Hub (blobs or snapshots), of DVC, git-annex or Git LFS."""
    if any(pair in _STORES for pair in pairwise(real.parts)):
        return True
    for place in (real, *real.parents):
        folder, repo = place.parent, place.parent.parent
        is_repo = _REPO.match(repo.name) or (repo / "refs").is_dir()
        if folder.name == "blobs" and (is_repo or (repo / "snapshots").is_dir()):
            return True
        if folder.name == "snapshots" and (is_repo or (repo / "blobs").is_dir() or is_commit(place.name)):
            return True
    modelscope = _modelscope()
    return real.is_relative_to(modelscope) and any(
        (folder / ".msc").is_file() for folder in real.parents if folder.is_relative_to(modelscope)
    )


def _is_foreign_content(link: Path, real: Path) -> bool:
    """Whether a link leads to a file that is named by its content, or that is not writable."""
    if real.parent == Path(os.path.realpath(link.parent)):
        return False
    try:
        read_only = not real.stat().st_mode & _WRITABLE
    except OSError:
        return False
    named = (real.parent.name,) if real.name == link.name else (real.name, real.parent.name)
    return read_only or any(map(_DIGEST.fullmatch, named))


def _modelscope() -> Path:
    """Return the folder of ModelScope's cache. Older versions store models there without links, each with a `.msc`."""
    place = os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope"
    return Path(os.path.realpath(os.path.expanduser(place)))  # noqa: PTH111 - pathlib's raises without a home
