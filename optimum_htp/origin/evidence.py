"""Checks whether files in a Hub's cache belong to a commit. A folder name is no proof, and files can be edited.

Each file that an export reads or embeds is compared with the digest from the Hub: from its response about the commit,
from the download to the cache, or from a new request. Hashing takes about one second per gigabyte.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from optimum_htp.errors import ChangedCacheError, OptimumHTPError
from optimum_htp.hubs.base import FileDigest, Hub, HubAccess, RepoInfo
from optimum_htp.libraries.names import CONFIG
from optimum_htp.libraries.repo_files import config_files, index_shards, read_json, weight_files
from optimum_htp.libraries.tasks import infer_library

__all__ = ["is_cached_folder", "loaded_files", "names_below", "require_unchanged", "unproven"]

_ADDED: Final = "the commit has no such file"
_UNKNOWN: Final = FileDigest()


def names_below(folder: Path) -> tuple[str, ...]:
    """Return the files in a folder and its direct subfolders. Deeper files do not belong to a model."""
    paths = (*folder.glob("*"), *folder.glob("*/*"), *folder.glob("*/*/*.json"))
    return tuple(sorted(path.relative_to(folder).as_posix() for path in paths if path.is_file()))


def loaded_files(folder: Path, library: str | None = None, *, weights: bool = True) -> tuple[str, ...]:
    """Return the files of a folder that loaders read: configs, preprocessors, code, and weights."""
    names = names_below(folder)
    content = read_json(folder / CONFIG)
    library = library or infer_library(names, content if isinstance(content, dict) else {})
    found = config_files(names, library=library, with_code=True)
    if weights:
        found += weight_files(names, lambda name: index_shards(folder / name), library=library)
    return found


def is_cached_folder(hub: Hub, repo_id: str, commit: str, folder: Path, access: HubAccess) -> bool:
    """Whether a folder is the folder of a commit in the Hub's cache, with links resolved."""
    cached = hub.cached_folder(repo_id, commit, access)
    try:
        return cached is not None and cached.samefile(folder)
    except OSError:
        return False


def unproven(
    hub: Hub, repo_id: str, commit: str, folder: Path, names: Iterable[str], access: HubAccess, info: RepoInfo | None
) -> dict[str, str]:
    """Return the files in a folder of the cache that cannot be shown to be a commit's, each with the reason.

    Missing files are left out. The Hub is asked only if neither `info`, its earlier response about the commit, nor the
    cache has a matching digest.
    """
    names = [name for name in dict.fromkeys(names) if (folder / name).is_file()]
    noted = {**hub.cached_digests(repo_id, commit, names, access), **_stated(info)}
    doubtful = [name for name in names if not _fits(folder / name, noted.get(name, _UNKNOWN))]
    if not doubtful:
        return {}
    differs = "it differs from the file of the commit"
    try:
        stated = hub.digests(repo_id, commit, access) or {}
    except OptimumHTPError as error:
        untold = f"this machine has no digest of it from the Hub, and the Hub does not provide one now: {error}"
        return {name: differs if noted.get(name, _UNKNOWN).is_known else untold for name in doubtful}
    found = {}
    for name in doubtful:
        digest = stated.get(name, noted.get(name, _UNKNOWN))
        if stated and name not in stated:
            found[name] = _ADDED
        elif not digest.is_known:
            found[name] = f"{hub.name} has no digest of it"
        elif not _fits(folder / name, digest):
            found[name] = differs
    return found


def require_unchanged(
    hub: Hub,
    repo_id: str,
    commit: str,
    folder: Path,
    names: Iterable[str],
    access: HubAccess,
    info: RepoInfo | None = None,
) -> None:
    """Reject files of the cache that cannot be shown to be a commit's. Other folders are checked when they are filled.

    The arguments are those of `unproven`.
    """
    if not is_cached_folder(hub, repo_id, commit, folder, access):
        return
    if found := unproven(hub, repo_id, commit, folder, names, access, info):
        name, reason = next(iter(found.items()))
        again = "Delete it" if reason == _ADDED else "Download it again with --force-download"
        raise ChangedCacheError(
            f"{folder / name} cannot be used as a file of {repo_id} at {commit}: {reason}. {again}. To use the file "
            "as it is, copy the folder out of the cache and name the copy."
        )


def _stated(info: RepoInfo | None) -> dict[str, FileDigest]:
    if info is None:
        return {}
    sha1 = {name: FileDigest(sha1=digest) for name, digest in info.blob_ids.items()}
    return {**sha1, **{name: FileDigest(sha256=digest) for name, digest in info.digests.items()}}


def _fits(path: Path, digest: FileDigest) -> bool:
    if not digest.is_known:
        return False
    with path.open("rb") as stream:
        return digest.fits(stream, path.stat().st_size)
