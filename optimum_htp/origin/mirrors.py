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
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from optimum_htp import plugins
from optimum_htp.errors import MirrorError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.masking import get_logger
from optimum_htp.onnxfile.replace_file import replaced_atomically
from optimum_htp.parsing import is_commit, is_inside, is_sha256, parse_json

__all__ = ["MANIFEST", "ListedFile", "MirrorFolder", "MirrorManifest", "fetch", "listed", "mirrors"]

logger = get_logger(__name__)

MANIFEST: Final = ".optimum-htp.json"
_VERSION: Final = 1
_VARIABLE: Final = "OPTIMUM_HTP_MIRRORS"
_PIECE: Final = 1 << 22  # Bytes per read.
_LARGEST_MANIFEST: Final = 1 << 24  # Bytes.

T = TypeVar("T")


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
    returned. Files of other mirrors are stored below the Hugging Face home, and downloaded once. `optional` files may
    be missing on the mirror.
    """
    wanted = MirrorManifest(provider, repo_id, commit)
    store = _store(wanted, access)
    if not access.force_download and (known := _stored(store, wanted)) is not None:
        there = [name for name in (*names, *optional) if name in known.files]
        if _serves(known, names) and all((store / name).is_file() for name in there):
            return store

    def from_mirror(place: MirrorFolder, manifest: MirrorManifest) -> Path | None:
        if not _serves(manifest, names):
            return None
        chosen = [name for name in dict.fromkeys((*names, *optional)) if name in manifest.files]
        logger.debug("%d files of %s at %s come from the mirror %s", len(chosen), repo_id, commit, place.url)
        if place.is_local:
            return place.checked(manifest, chosen)
        return _written(place, manifest, chosen, _writable(store, manifest))

    return _first_answer(wanted, access, from_mirror)


def listed(provider: str, repo_id: str, revision: str | None, access: HubAccess) -> frozenset[str] | None:
    """Return the names of all files of a commit, from a mirror that has some of them; None if no mirror has any.

    The result is also None for a revision that is not a full commit.
    """
    if not is_commit(revision):
        return None
    wanted = MirrorManifest(provider, repo_id, revision)
    return _first_answer(wanted, access, lambda place, manifest: manifest.commit_files)


def _first_answer(
    wanted: MirrorManifest, access: HubAccess, ask: Callable[[MirrorFolder, MirrorManifest], T | None]
) -> T | None:
    """Return the first answer of a mirror that has files of a commit; None without one.

    A fault of a mirror becomes a warning, because the next place may work. With `local_files_only`, only local folders
    are searched.
    """
    for url in mirrors():
        try:
            place = MirrorFolder.at(url)
            if access.local_files_only and not place.is_local:
                continue
            manifest = place.manifest(wanted)
            answer = None if manifest is None else ask(place, manifest)
        except Exception as error:  # noqa: BLE001 - each file system of fsspec's raises its own
            cause = str(error) if isinstance(error, MirrorError) else f"{type(error).__name__}: {error}"
            message = "The mirror %s is skipped for %s at %s: %s."
            logger.warning(message, url, wanted.repo_id, wanted.commit, cause)
            continue
        if answer is not None:
            return answer
    return None


def mirrors() -> tuple[str, ...]:
    """Return the URLs of the mirrors, in search order."""
    return tuple(url for url in re.split(r"[,\s]+", os.environ.get(_VARIABLE, "")) if url)


@dataclass(frozen=True)
class ListedFile:
    """The size of a file in bytes, and its SHA-256 in hexadecimal digits."""

    size: int
    sha256: str


@dataclass(frozen=True)
class MirrorManifest:
    """The files of a commit on a mirror: one JSON file next to the files, written last.

        {"version": 1, "provider": "huggingface", "repo_id": "org/name", "commit": "86b5…",
         "commit_files": ["README.md", "config.json", "model.safetensors"],
         "files": {"config.json": {"size": 570, "sha256": "7b4e…"}}}

    `commit_files` lists all files of the commit, so a mirror can also tell that a file does not exist. `files` lists
    those next to the manifest. The content of a commit never changes: files may be added, none is replaced.
    """

    provider: str
    repo_id: str
    commit: str
    commit_files: frozenset[str] = frozenset()
    files: Mapping[str, ListedFile] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """Return the stored form; the same bytes for the same manifest."""
        files = {name: {"size": file.size, "sha256": file.sha256} for name, file in sorted(self.files.items())}
        content = {
            "version": _VERSION,
            "provider": self.provider,
            "repo_id": self.repo_id,
            "commit": self.commit,
            "commit_files": sorted(self.commit_files),
            "files": files,
        }
        return json.dumps(content, ensure_ascii=False, indent=1).encode()

    @classmethod
    def from_json(cls, text: bytes, expected: MirrorManifest) -> MirrorManifest:
        """Parse a stored manifest, which is untrusted, and compare its model and commit with an expected one."""
        try:
            content = parse_json(text)
            found = cls(
                provider=content["provider"],
                repo_id=content["repo_id"],
                commit=content["commit"],
                commit_files=frozenset(map(_name, content["commit_files"])),
                files={_name(name): _digest(file) for name, file in content["files"].items()},
            )
            version = content["version"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MirrorError(f"it is not a manifest ({type(error).__name__}: {error})") from error
        if version != _VERSION:
            raise MirrorError(f"its version is {version!r}, but this version of optimum-htp reads {_VERSION}")
        stated = (found.provider, found.repo_id, found.commit)
        if stated != (expected.provider, expected.repo_id, expected.commit):
            raise MirrorError(f"it is for {found.repo_id!r} at {found.commit!r} of {found.provider!r}")
        return found


def _name(name: Any) -> str:
    if not isinstance(name, str) or not is_inside(name) or name == MANIFEST:
        raise ValueError(f"{name!r} is not a valid file name in a repo")
    return name


def _digest(content: Any) -> ListedFile:
    size, sha256 = content["size"], content["sha256"]
    if type(size) is not int or size < 0 or not is_sha256(sha256):
        raise ValueError(f"{content!r} is not size and SHA-256 of a file")
    return ListedFile(size, sha256)


@dataclass(frozen=True)
class MirrorFolder:
    """A mirror: a file system of fsspec, and a path in it."""

    url: str
    files: Any
    root: str

    @classmethod
    def at(cls, url: str) -> MirrorFolder:
        """Open a mirror, unless fsspec does not support the protocol, or a required package is not installed."""
        import fsspec

        try:
            # Listings are not cached, because files may be added while this process runs.
            options = {"use_listings_cache": False} if url.startswith(("s3://", "http://", "https://")) else {}
            files, root = fsspec.core.url_to_fs(url, **options)
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
        """Return the mirror's manifest for a commit; None if it has no files of the commit."""
        path = self.path(wanted, MANIFEST)
        try:
            with self.files.open(path, "rb") as stream:
                text = stream.read(_LARGEST_MANIFEST + 1)
        except FileNotFoundError:
            return None
        if len(text) > _LARGEST_MANIFEST:
            raise MirrorError(f"{path} has more than {_LARGEST_MANIFEST} bytes")
        try:
            return MirrorManifest.from_json(text, wanted)
        except MirrorError as error:
            raise MirrorError(f"{path} cannot be used: {error}") from error

    def pieces(self, of: MirrorManifest, name: str) -> Iterator[bytes]:
        """Yield the content of a file in pieces. At the end, it must match the manifest."""
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


def _folder(of: MirrorManifest) -> str:
    prefix = "" if of.provider == plugins.HUGGING_FACE else f"@{of.provider}/"
    return f"{prefix}{of.repo_id}/{of.commit}"


def _serves(manifest: MirrorManifest, names: Sequence[str]) -> bool:
    return all(name in manifest.files or name not in manifest.commit_files for name in names)


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
