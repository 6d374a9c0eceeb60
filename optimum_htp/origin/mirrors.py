"""Mirrors with files of commits. They are searched after the cache and before the Hub.

`OPTIMUM_HTP_MIRRORS` lists them in search order: folders and any location that fsspec opens (`file:///mnt/models`,
`s3://bucket/prefix`, `https://host/models`), separated by commas or spaces. The files of a commit are in
`org/name/<commit>/` of a mirror (for a Hub other than Hugging Face's in `@provider/org/name/<commit>/`), with a
manifest of their digests, which are checked. Mirrors serve full commits only, because a mirror does not know the
commit of a branch. A mirror gets no token. A fault of a mirror is a warning; the search continues with the next
mirror and then the Hub.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from optimum_htp import plugins
from optimum_htp.errors import MirrorError, OptimumHTPError
from optimum_htp.hubs.base import Hub, HubAccess
from optimum_htp.masking import get_logger
from optimum_htp.onnxfile.replace_file import replaced_atomically
from optimum_htp.origin.mirror_manifest import MANIFEST, ListedFile, MirrorManifest
from optimum_htp.parsing import is_commit

__all__ = ["MirrorFolder", "fetch", "listed", "mirrors", "snapshot"]

logger = get_logger(__name__)

_VARIABLE: Final = "OPTIMUM_HTP_MIRRORS"
_PIECE: Final = 1 << 22  # Bytes per read.
_LARGEST_MANIFEST: Final = 1 << 24  # Bytes.


def snapshot(
    hub: Hub,
    repo_id: str,
    commit: str,
    files: Sequence[str],
    access: HubAccess,
    *,
    optional: Sequence[str] = (),
    ref: str | None = None,
    progress: bool = False,
) -> Path:
    """Return a folder with files of a commit: from the Hub's cache, from a mirror, or from the Hub.

    The arguments are those of `Hub.snapshot`. Without mirrors, this is `Hub.snapshot`.

    Raises:
        HFHubIntegrationError: As `Hub.snapshot`.
    """
    if files and mirrors():
        if not access.force_download:
            try:
                return hub.snapshot(repo_id, commit, files, replace(access, local_files_only=True), ref=ref)
            except OptimumHTPError:
                logger.debug("The cache does not contain all of %s of %s at %s", files, repo_id, commit)
        if (folder := fetch(hub.name, repo_id, commit, files, access, optional=optional)) is not None:
            return folder
    return hub.snapshot(repo_id, commit, files, access, optional=optional, ref=ref, progress=progress)


def fetch(
    provider: str,
    repo_id: str,
    commit: str,
    names: Sequence[str],
    access: HubAccess,
    *,
    optional: Sequence[str] = (),
) -> Path | None:
    """Return a folder with files of a commit from a mirror; None if no mirror has all of them.

    A file that the commit does not have is not in the folder. For a mirror that is a local folder, its own folder is
    returned. Files of other mirrors are stored below the Hugging Face home, and downloaded once.

    Args:
        provider: Name of the commit's Hub.
        repo_id: The repo.
        commit: Full commit.
        names: The files.
        access: Contains the location of the cache. With `local_files_only`, only local folders are searched.
        optional: Files that may be missing on the mirror.
    """
    wanted = MirrorManifest(provider, repo_id, commit)
    store = _store(wanted, access)
    if not access.force_download and (known := _stored(store, wanted)) is not None:
        there = [name for name in (*names, *optional) if name in known.files]
        if _serves(known, names) and all((store / name).is_file() for name in there):
            return store
    for url in mirrors():
        with _faults_told(url, wanted):
            place = MirrorFolder.at(url)
            if access.local_files_only and not place.is_local:
                continue
            manifest = place.manifest(wanted)
            if manifest is None or not _serves(manifest, names):
                continue
            chosen = [name for name in dict.fromkeys((*names, *optional)) if name in manifest.files]
            logger.debug("%d files of %s at %s come from the mirror %s", len(chosen), repo_id, commit, url)
            if place.is_local:
                return place.checked(manifest, chosen)
            return _written(place, manifest, chosen, _writable(store, manifest))
    return None


def listed(provider: str, repo_id: str, revision: str | None, access: HubAccess) -> frozenset[str] | None:
    """Return the names of all files of a commit, from a mirror that has some of them; None if no mirror has any.

    The result is also None for a revision that is not a full commit.
    """
    if not is_commit(revision):
        return None
    wanted = MirrorManifest(provider, repo_id, revision)
    for url in mirrors():
        with _faults_told(url, wanted):
            place = MirrorFolder.at(url)
            if place.is_local or not access.local_files_only:
                manifest = place.manifest(wanted)
                if manifest is not None:
                    return manifest.commit_files
    return None


def mirrors() -> tuple[str, ...]:
    """Return the URLs of the mirrors, in search order."""
    return tuple(url for url in re.split(r"[,\s]+", os.environ.get(_VARIABLE, "")) if url)


@dataclass(frozen=True)
class MirrorFolder:
    """A mirror: a file system of fsspec, and a path in it."""

    url: str
    files: Any
    root: str

    @classmethod
    def at(cls, url: str) -> MirrorFolder:
        """Open a mirror.

        Raises:
            MirrorError: fsspec does not support the protocol, or a required package is not installed.
        """
        import fsspec

        try:
            files, root = fsspec.core.url_to_fs(url, **({} if "://" not in url else _options(url)))
        except ImportError as error:
            raise MirrorError(f"{error}. For s3:// and https://, run `pip install s3fs`") from error
        except ValueError as error:
            raise MirrorError(str(error)) from error
        return cls(url, files, root.rstrip("/"))

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""
        return "file" in ((self.files.protocol,) if isinstance(self.files.protocol, str) else self.files.protocol)

    def path(self, of: MirrorManifest, name: str) -> str:
        """Return the path of a file of a commit."""
        return f"{self.root}/{_folder(of)}/{name}"

    def manifest(self, wanted: MirrorManifest) -> MirrorManifest | None:
        """Return the mirror's manifest for a commit; None if it has no files of the commit.

        Raises:
            MirrorError: The stored file is not a manifest of the commit.
        """
        path = self.path(wanted, MANIFEST)
        try:
            with self.files.open(path, "rb") as stream:
                text = stream.read(_LARGEST_MANIFEST + 1)
        except FileNotFoundError:
            return None
        if len(text) > _LARGEST_MANIFEST:
            raise MirrorError(f"{path} has more than {_LARGEST_MANIFEST} bytes")
        return _parsed(text, path, wanted)

    def pieces(self, of: MirrorManifest, name: str) -> Iterator[bytes]:
        """Yield the content of a file in pieces.

        Raises:
            MirrorError: The content does not match the manifest; raised at the end.
        """
        expected, digest, size = of.files[name], hashlib.sha256(), 0
        try:
            with self.files.open(self.path(of, name), "rb") as stream:
                while size <= expected.size and (piece := stream.read(_PIECE)):
                    size += len(piece)
                    digest.update(piece)
                    yield piece
        except FileNotFoundError as error:
            raise MirrorError(f"{self.path(of, name)} is in the manifest, but does not exist") from error
        if ListedFile(size, digest.hexdigest()) != expected:
            raise MirrorError(f"{self.path(of, name)} is damaged: it does not match its manifest")

    def checked(self, manifest: MirrorManifest, chosen: Iterable[str]) -> Path:
        """Return the folder of a commit in a mirror that is a local folder, after a check of its files' digests."""
        for name in chosen:
            for _ in self.pieces(manifest, name):
                pass
        return Path(self.root, *_folder(manifest).split("/"))


def _options(url: str) -> dict[str, Any]:
    """Return options for fsspec: no cache of listings, because files may be added while this process runs."""
    return {"use_listings_cache": False} if url.startswith(("s3://", "http://", "https://")) else {}


def _folder(of: MirrorManifest) -> str:
    prefix = "" if of.provider == plugins.HUGGING_FACE else f"@{of.provider}/"
    return f"{prefix}{of.repo_id}/{of.commit}"


def _serves(manifest: MirrorManifest, names: Sequence[str]) -> bool:
    return all(name in manifest.files or name not in manifest.commit_files for name in names)


def _parsed(text: bytes, path: str, wanted: MirrorManifest) -> MirrorManifest:
    try:
        return MirrorManifest.from_json(text, wanted)
    except MirrorError as error:
        raise MirrorError(f"{path} cannot be used: {error}") from error


@contextmanager
def _faults_told(url: str, wanted: MirrorManifest) -> Iterator[None]:
    """Convert faults of a mirror to warnings, because the next place may work."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - each file system of fsspec's raises its own
        cause = str(error) if isinstance(error, MirrorError) else f"{type(error).__name__}: {error}"
        message = "The mirror %s is skipped for %s at %s: %s."
        logger.warning(message, url, wanted.repo_id, wanted.commit, cause)


def _store(wanted: MirrorManifest, access: HubAccess) -> Path:
    """Return the folder in which files of a commit from mirrors are stored."""
    from huggingface_hub import constants

    base = Path(access.cache_dir) if access.cache_dir is not None else Path(constants.HF_HOME)
    return base.joinpath("optimum_htp", "mirrored", *_folder(wanted).split("/"))


def _stored(store: Path, wanted: MirrorManifest) -> MirrorManifest | None:
    try:
        return MirrorManifest.from_json((store / MANIFEST).read_bytes(), wanted)
    except OSError:
        return None
    except MirrorError as error:
        logger.warning("%s is not used: %s", store / MANIFEST, error)
        return None


def _writable(store: Path, manifest: MirrorManifest) -> Path:
    """Return the folder for the files; a temporary folder of this process if the usual one is not writable."""
    try:
        store.mkdir(parents=True, exist_ok=True)
        if os.access(store, os.W_OK):
            return store
    except OSError as error:
        logger.debug("%s cannot be created: %s", store, error)
    logger.info("%s is not writable; files from mirrors are stored in a temporary folder", store)
    return Path(_temporary().name, *_folder(manifest).split("/"))


@functools.cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="optimum-htp-mirrored-")


def _written(place: MirrorFolder, manifest: MirrorManifest, chosen: Iterable[str], store: Path) -> Path:
    """Write files, each complete or not at all, and the manifest last."""
    for name in chosen:
        target = store / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with replaced_atomically(target) as stream:
            for piece in place.pieces(manifest, name):
                stream.write(piece)
    store.mkdir(parents=True, exist_ok=True)
    with replaced_atomically(store / MANIFEST) as stream:
        stream.write(manifest.to_json())
    return store
