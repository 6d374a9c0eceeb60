"""What a Hub is: the questions that the rest of this package asks one.

A Hub serves git-like repos of files. It answers what a name and a revision mean right now (`info`), what the
local cache knows of that without asking (`cached_commit`), and makes files of one commit available in a local
folder (`snapshot`). Every failure is one of this package's errors, chained to the cause.
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

__all__ = ["FileDigest", "Hub", "HubAccess", "RepoInfo"]

_PIECE: Final = 1 << 20  # bytes


@dataclass(frozen=True)
class HubAccess:
    """How to reach a Hub; the same keyword arguments as Hugging Face's `from_pretrained`.

    Attributes:
        token: Bearer token; None or True for the environment's or the saved login's, False for none.
        cache_dir: Root of the cache; None for the Hub's standard one.
        local_files_only: Open no connection.
        force_download: Fetch files again although the cache has them.
    """

    token: str | bool | None = field(default=None, repr=False)
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    force_download: bool = False

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> HubAccess:
        """Return what the keyword arguments of a `from_pretrained` say; the others are left alone."""
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
        """Return an access with the arguments that a public function was given beside it."""
        given = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only or None}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return replace(access or cls(), **changes)

    def __post_init__(self) -> None:
        if self.force_download and self.local_files_only:
            raise ArgumentError("force_download and local_files_only contradict each other: give one of them.")
        if self.cache_dir is not None:
            object.__setattr__(self, "cache_dir", Path(self.cache_dir).expanduser())


@dataclass(frozen=True, kw_only=True)
class RepoInfo:
    """What a Hub says of a repo at one revision. Fields that it does not fill are None or empty.

    `digests` has the sha256 of the files that are kept as large ones (Git LFS), by name; `blob_ids` has git's sha1 of
    all others.
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
    """What a commit says of a file's content.

    Attributes:
        sha1: Of git's blob: of `blob`, a space, the size, a null character and the content.
        sha256: Of the content, for what is stored with LFS. It counts where both are there: git's is of the pointer.
    """

    sha1: str | None = None
    sha256: str | None = None

    @property
    def is_known(self) -> bool:
        """Whether there is a digest at all."""
        return self.sha1 is not None or self.sha256 is not None

    def fits(self, stream: IO[bytes], size: int) -> bool:
        """Whether a content has this digest.

        Args:
            stream: The content. It is read in pieces: weights may be larger than the memory.
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
    """A place that models come from. Plugins derive theirs from it, and add it through the hook `optimum_htp_hubs`.

    `name` and the abstract methods are what a Hub has to have; the other methods work for every Hub.
    """

    name: str
    """What `hf_hub_provider` calls it, and what may stand before `://org/name`."""

    alias: str | None = None
    """What may stand there besides."""

    default_revision: str = "main"
    """The branch that is meant where none is named."""

    @abstractmethod
    def info(self, repo_id: str, revision: str | None, access: HubAccess) -> RepoInfo:
        """Ask the Hub what a repo is at a revision (its main branch for None).

        Raises:
            InvalidModelReferenceError: The repo id cannot be one.
            ModelNotFoundError: There is no such repo or, `RevisionNotFoundError`, no such revision.
            HubUnreachableError: The Hub could not be asked.
        """

    @abstractmethod
    def cached_commit(self, repo_id: str, revision: str | None, access: HubAccess) -> str | None:
        """Return the commit that the local cache has for a revision, or None. Opens no connection."""

    @abstractmethod
    def full_commit(self, repo_id: str, prefix: str, access: HubAccess) -> str:
        """Return the commit that begins with a few characters, from the cache or the repo's history.

        Raises:
            RevisionNotFoundError: No commit begins so, or several do.
            HubUnreachableError: The cache does not know and the Hub could not be asked.
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
        """Return a folder that holds these files of a commit, fetching side by side those that are missing.

        A file that the commit does not have is not in the folder. Without missing files no connection is
        opened. Those that are `optional` may also be missing while connections are forbidden. With `ref`, the
        cache notes that this branch or tag is the commit, for `cached_commit`.

        Raises:
            ModelNotFoundError: There is no such repo or commit, or the token may not see it.
            GatedModelError: The files are closed to this token.
            HubUnreachableError: Files are missing and the Hub could not be asked.
        """

    def check(self, repo_id: str) -> None:
        """Make sure that a text can be the id of a repo.

        Raises:
            InvalidModelReferenceError: It cannot.
        """
        if not is_repo_id(repo_id):
            raise InvalidModelReferenceError(f"{repo_id!r} is not a repo id ('name' or 'organization/name').")

    def cached_repo(self, path: str | os.PathLike[str]) -> tuple[str, str] | None:
        """Return repo id and commit where a path is named like one in a snapshot of this Hub's cache, else None.

        A name proves nothing: `cached_folder` and `cached_digests` have to agree before the path counts as the commit.
        """
        return None

    def cached_folder(self, repo_id: str, commit: str, access: HubAccess) -> Path | None:
        """Return the folder that the cache in use has for a commit, None for a Hub whose folders are never named.

        A Hub that overrides `cached_repo` has to override this and `cached_digests` too, or have `digests`. Only then
        can a folder that a user names count as a commit; the files of the commit that `snapshot` returns are then
        compared as well, because somebody may have changed them in the cache.
        """
        return None

    def cached_digests(
        self, repo_id: str, commit: str, names: Sequence[str], access: HubAccess
    ) -> Mapping[str, FileDigest]:
        """Return the digests of a commit's files, as far as the cache in use notes them. Opens no connection.

        They are those that the Hub stated when it sent the files, never ones that are computed from what is there.
        """
        return {}

    def digests(self, repo_id: str, commit: str, access: HubAccess) -> Mapping[str, FileDigest] | None:
        """Return the digests of all files of a commit, by name, without sending them; None where no Hub tells them.

        Raises:
            ModelNotFoundError: There is no such repo or commit, or the token may not see it.
            HubUnreachableError: The Hub could not be asked.
        """
        return None

    @contextmanager
    def opened(self, repo_id: str, revision: str | None, name: str, access: HubAccess) -> Iterator[ByteWindow]:
        """Open a file for reading in pieces. The whole file is fetched, where a Hub knows no better.

        Raises:
            OnnxFileNotFoundError: The repo has no such file.
            HFHubIntegrationError: It cannot be reached; the subclass says why.
        """
        commit = self.info(repo_id, revision, access).commit
        path = self.snapshot(repo_id, commit, [name], access) / name
        if not path.is_file():
            raise OnnxFileNotFoundError(f"There is no file {name} in {repo_id} at {commit}. Check repo and path.")
        with opened(path, chunk=1 << 16) as window:
            yield window
