"""The Hub's cache on disk, in huggingface_hub's own layout, which all libraries share.

    models--org--name/
        blobs/<etag>                     content
        snapshots/<commit>/<file>        link to a blob
        .no_exist/<commit>/<file>        empty: the commit has no such file
        refs/<branch or tag>             commit

(https://huggingface.co/docs/huggingface_hub/guides/manage-cache). Each file is created completely or not at all.
Values from a Hub are used in a path only if the path stays in the folder.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

from optimum_htp.hubs.base import FileDigest, HubAccess
from optimum_htp.masking import get_logger
from optimum_htp.onnxfile.replace_file import replaced_atomically
from optimum_htp.parsing import is_commit, is_sha256, is_text

__all__ = ["RepoCache", "digest_in_name", "is_blob_name", "is_known_missing"]

logger = get_logger(__name__)

_BLOB_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


def is_blob_name(etag: str | None) -> bool:
    """Whether an ETag can be the name of a blob. The Hub's ETags are hashes."""
    return etag is not None and _BLOB_NAME.fullmatch(etag) is not None


def digest_in_name(etag: str) -> FileDigest | None:
    """Return the digest that is the name of a blob; None if it is not one, as with some proxies."""
    if is_commit(etag):  # A sha1 has the same form.
        return FileDigest(sha1=etag)
    return FileDigest(sha256=etag) if is_sha256(etag) else None


def is_known_missing(repo_id: str, name: str, cache_dir: str | Path | None, revision: str | None) -> bool:
    """Whether the cache records that a repo has no such file."""
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(repo_id, name, cache_dir=cache_dir, revision=revision)
    except HFValidationError:
        return False
    return found is _CACHED_NO_EXIST


class RepoCache:
    """A repo's folder in the cache that `access` names."""

    def __init__(self, repo_id: str, access: HubAccess) -> None:
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        self._cache = Path(access.cache_dir or constants.HF_HUB_CACHE).expanduser()
        self._repo_id = repo_id
        self.folder = self._cache / repo_folder_name(repo_id=repo_id, repo_type="model")

    def snapshot(self, commit: str) -> Path:
        """Return the folder of a commit's files."""
        return self.folder / "snapshots" / commit

    def knows(self, commit: str, name: str) -> bool:
        """Whether the cache contains a file of a commit, or records that it does not exist."""
        from huggingface_hub import try_to_load_from_cache

        return try_to_load_from_cache(self._repo_id, name, cache_dir=self._cache, revision=commit) is not None

    def commits(self, prefix: str) -> list[str]:
        """Return the commits in the cache that begin with a prefix."""
        found = (path.name for path in self.snapshot("").glob(f"{prefix}*"))
        return sorted(filter(is_commit, found))

    def commit(self, revision: str) -> str | None:
        """Return the commit of a revision at its last lookup; None if its files are not in the cache.

        A truncated ref is ignored.
        """
        if not is_commit(revision):
            path = self._ref(revision)
            try:
                revision = path.read_text(encoding="utf-8").strip() if path is not None else ""
            except (OSError, ValueError):
                return None
        return revision if is_commit(revision) and self.snapshot(revision).is_dir() else None

    def note(self, ref: str, commit: str) -> None:
        """Record the commit of a branch or tag, for use while the Hub is unreachable."""
        path = self._ref(ref)
        if path is None:
            return
        try:
            if path.is_file() and path.read_bytes() == commit.encode():
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            with replaced_atomically(path) as stream:
                stream.write(commit.encode())
        except OSError as error:  # A read-only cache; this only affects later lookups without a connection.
            logger.warning("The cache cannot record that %s is %s: %s", ref, commit, error)

    def note_missing(self, commit: str, name: str) -> None:
        """Record that a commit has no such file."""
        path = self.folder / ".no_exist" / commit / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError as error:
            logger.warning("The cache cannot record that %s has no %s: %s", commit, name, error)

    def blob(self, etag: str) -> Path:
        """Return the path of a blob."""
        assert is_blob_name(etag), etag
        return self.folder / "blobs" / etag

    def digest(self, commit: str, name: str) -> FileDigest | None:
        """Return the digest in the name of the blob behind a file of a commit.

        None if the file is not a link to a blob (Windows, copies, files of other programs).
        """
        path = self.snapshot(commit) / name
        try:
            blob = path.parent / path.readlink()
            if not blob.parent.samefile(self.folder / "blobs"):
                return None
        except OSError:
            return None
        return digest_in_name(blob.name)

    @contextmanager
    def filling(self, etag: str) -> Iterator[Callable[[bytes], object]]:
        """Write a blob. It exists once the block has ended without an exception."""
        path = self.blob(etag)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced_atomically(path) as stream:
            yield stream.write

    def link(self, commit: str, name: str, etag: str) -> None:
        """Link a file of a commit to a blob; copy it if links are not permitted."""
        blob, target = self.blob(etag), self.snapshot(commit) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{uuid4().hex}.tmp")
        try:
            try:
                temporary.symlink_to(os.path.relpath(blob, target.parent))
            except OSError:  # Windows without its developer mode.
                shutil.copyfile(blob, temporary)
            temporary.replace(target)
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()

    def _ref(self, ref: str) -> Path | None:
        refs = self.folder / "refs"
        path = refs / ref
        return path if is_text(ref) and refs in path.parents and ".." not in path.parts else None
