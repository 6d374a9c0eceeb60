"""The interface of a Hub.

A Hub serves git-like repos of files. It resolves a repo id and a revision (`info`), returns what the local cache
contains without a connection (`cached_commit`), and makes files of one commit available in a local folder
(`snapshot`). All failures are exceptions of this package, chained to the cause.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import IO, Any, Final

from optimum_htp.errors import ArgumentError, InvalidModelReferenceError, OnnxFileNotFoundError
from optimum_htp.metadata import is_repo_id
from optimum_htp.onnxfile.reader import opened
from optimum_htp.onnxfile.wire import ByteWindow

__all__ = ["FileDigest", "Hub", "HubAccess", "RepoInfo", "repo_at"]

_PIECE: Final = 1 << 20  # Bytes.


@dataclass(frozen=True)
class HubAccess:
    """Options for Hub requests, named like the keyword arguments of Hugging Face's `from_pretrained`.

    Attributes:
        token: Bearer token; None or True for the token of the environment or of the saved login, False for none.
        cache_dir: Root of the cache; None for the Hub's standard cache.
        local_files_only: Whether to open no connection.
        force_download: Whether to download files that are in the cache.
    """

    token: str | bool | None = field(default=None, repr=False)
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    force_download: bool = False

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> HubAccess:
        """Return the options in the keyword arguments of a `from_pretrained`.

        The keyword arguments are not changed.
        """
        names = (field.name for field in fields(cls))
        return cls(**{name: options[name] for name in names if options.get(name) is not None})

    @classmethod
    def of(
        cls,
        access: HubAccess | None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> HubAccess:
        """Return the options from the arguments of a public function."""
        given = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only or None}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return replace(access or cls(), **changes)

    def __post_init__(self) -> None:
        if self.force_download and self.local_files_only:
            raise ArgumentError("force_download and local_files_only contradict each other. Pass only one of them.")
        if self.cache_dir is not None:
            object.__setattr__(self, "cache_dir", Path(self.cache_dir).expanduser())


def repo_at(repo_id: str, revision: str | None) -> str:
    """Return a repo and its revision for messages."""
    return repo_id if revision is None else f"{repo_id} at {revision}"


@dataclass(frozen=True, kw_only=True)
class RepoInfo:
    """A Hub's information about a repo at one revision. Missing fields are None or empty.

    `digests` contains the sha256 of large files (Git LFS), by name; `blob_ids` contains git's sha1 of all others.
    """

    repo_id: str
    commit: str
    files: tuple[str, ...]
    digests: Mapping[str, str] = field(default_factory=dict, repr=False)
    blob_ids: Mapping[str, str] = field(default_factory=dict, repr=False)
    tags: tuple[str, ...] = ()
    pipeline_tag: str | None = None
    library_name: str | None = None
    author: str | None = None
    last_modified: str | None = None
    private: bool | None = None
    gated: bool | None = None
    downloads: int | None = None
    likes: int | None = None
    base_model: str | None = None
    license: str | None = None
    language: str | list[str] | None = None
    task_categories: list[str] | None = None


@dataclass(frozen=True)
class FileDigest:
    """The digest of a file's content in a commit.

    Attributes:
        sha1: Digest of git's blob: of `blob`, a space, the size, a null character and the content.
        sha256: Digest of the content, for files in LFS. If both exist, this one counts: git's is that of the pointer.
    """

    sha1: str | None = None
    sha256: str | None = None

    @property
    def is_known(self) -> bool:
        """Whether there is a digest."""
        return self.sha1 is not None or self.sha256 is not None

    def fits(self, stream: IO[bytes], size: int) -> bool:
        """Whether a content has this digest.

        Args:
            stream: The content. It is read in pieces, because weights may be larger than the memory.
            size: Its size in bytes.
        """
        if self.sha256 is not None:
            digest = hashlib.sha256()
        else:
            digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        while piece := stream.read(_PIECE):
            digest.update(piece)
        return digest.hexdigest() == (self.sha256 or self.sha1)


class Hub(ABC):
    """A source of models. Plugins derive a class from it and return an instance from the hook `optimum_htp_hubs`.

    `name` and the abstract methods are required; the other methods work for every Hub.
    """

    name: str
    """The value of `hf_hub_provider`, and the prefix in `name://org/name`."""

    alias: str | None = None
    """A second prefix."""

    default_revision: str = "main"
    """The branch for references without a revision."""

    @abstractmethod
    def info(self, repo_id: str, revision: str | None, access: HubAccess) -> RepoInfo:
        """Request the information about a repo at a revision (its default branch for None).

        Raises:
            InvalidModelReferenceError: The repo id is invalid.
            ModelNotFoundError: The repo does not exist; `RevisionNotFoundError`: the revision does not exist.
            HubUnreachableError: The Hub is unreachable.
        """

    @abstractmethod
    def cached_commit(self, repo_id: str, revision: str | None, access: HubAccess) -> str | None:
        """Return the commit of a revision in the local cache, or None. Opens no connection."""

    @abstractmethod
    def full_commit(self, repo_id: str, prefix: str, access: HubAccess) -> str:
        """Return the commit that begins with a prefix, from the cache or the repo's history.

        Raises:
            RevisionNotFoundError: No commit or several commits have this prefix.
            HubUnreachableError: The cache does not contain the commit, and the Hub is unreachable.
        """

    @abstractmethod
    def snapshot(
        self,
        repo_id: str,
        commit: str,
        files: Sequence[str],
        access: HubAccess,
        *,
        optional: Sequence[str] = (),
        ref: str | None = None,
        progress: bool = False,
    ) -> Path:
        """Return a folder with the given files of a commit. Missing files are downloaded in parallel.

        A file that the commit does not have is not in the folder. If no file is missing, no connection is opened.
        `optional` files may also be missing while connections are forbidden. With `ref`, the cache records that this
        branch or tag is the commit, for `cached_commit`.

        Raises:
            ModelNotFoundError: The repo or commit does not exist, or the token has no access.
            GatedModelError: The token has no access to the files.
            HubUnreachableError: Files are missing, and the Hub is unreachable.
        """

    def check(self, repo_id: str) -> None:
        """Check that a text is a valid repo id.

        Raises:
            InvalidModelReferenceError: It is not.
        """
        if not is_repo_id(repo_id):
            raise InvalidModelReferenceError(f"{repo_id!r} is not a repo id ('name' or 'organization/name').")

    def cached_repo(self, path: str | os.PathLike[str]) -> tuple[str, str] | None:
        """Return repo id and commit if a path has the form of a snapshot in this Hub's cache, else None.

        The form alone is no proof: the path counts as the commit only if `cached_folder` and `cached_digests` match.
        """
        return None

    def cached_folder(self, repo_id: str, commit: str, access: HubAccess) -> Path | None:
        """Return the folder of a commit in the configured cache; None for a Hub whose folders users never name.

        A Hub that overrides `cached_repo` must also override this method, and `cached_digests` or `digests`. Only
        then can a folder that a user names count as a commit. The files that `snapshot` returns are then compared
        too, because files in the cache may have been changed.
        """
        return None

    def cached_digests(
        self, repo_id: str, commit: str, names: Sequence[str], access: HubAccess
    ) -> Mapping[str, FileDigest]:
        """Return the digests of a commit's files that the configured cache contains. Opens no connection.

        They are the digests that the Hub sent with the files, never digests that are computed from the files in the
        cache.
        """
        return {}

    def digests(self, repo_id: str, commit: str, access: HubAccess) -> Mapping[str, FileDigest] | None:
        """Return the digests of all files of a commit, by name, without a download; None if the Hub has none.

        Raises:
            ModelNotFoundError: The repo or commit does not exist, or the token has no access.
            HubUnreachableError: The Hub is unreachable.
        """
        return None

    @contextmanager
    def opened(self, repo_id: str, revision: str | None, name: str, access: HubAccess) -> Iterator[ByteWindow]:
        """Open a file for reading in pieces. This default implementation downloads the whole file.

        Raises:
            OnnxFileNotFoundError: The repo has no such file.
            HFHubIntegrationError: It cannot be downloaded; the subclass gives the reason.
        """
        commit = self.info(repo_id, revision, access).commit
        path = self.snapshot(repo_id, commit, [name], access) / name
        if not path.is_file():
            raise OnnxFileNotFoundError(f"There is no file {name} in {repo_id} at {commit}. Check repo and path.")
        with opened(path, chunk=1 << 16) as window:
            yield window
