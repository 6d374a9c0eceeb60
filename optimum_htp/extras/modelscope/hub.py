"""ModelScope, through its SDK (the extra `modelscope`), with the login, the variables and the cache of the SDK.

The Hub is at `MODELSCOPE_ENDPOINT`, with the token of `MODELSCOPE_API_TOKEN` or of `ms login`. A revision is looked up
in the history of the repo. Files are downloaded at that commit, and checked against the SHA-256 of its listing. The
files are in the cache of the SDK. This package adds what the SDK does not store:

    models/org--name/
        snapshots/<commit>/<file>
        listings/<commit>.json     name -> [size, SHA-256] of all files of the commit
        refs/<branch or tag>       commit
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from optimum_htp.errors import HubServerError, OfflineError, RevisionNotFoundError
from optimum_htp.extras.modelscope.sdk import address, commits, connected, fetch_small_file, translated_errors
from optimum_htp.hubs.base import FileDigest, Hub, HubAccess, RepoInfo
from optimum_htp.hubs.deadline import Deadline, in_parallel
from optimum_htp.masking import get_logger
from optimum_htp.onnxfile.replace_file import replaced_atomically
from optimum_htp.parsing import is_commit, is_inside, is_text, parse_json

__all__ = ["ModelScopeHub"]

logger = get_logger(__name__)

_MODEL: Final = "model"  # type of a repo in the SDK
_PARALLEL_DOWNLOADS: Final = 8
_LARGEST_SMALL: Final = 1 << 23  # bytes; the SDK downloads larger files, with a progress bar, and resumes them
_PAGE: Final = 100  # commits
_MOST_PAGES: Final = 100
_SNAPSHOT: Final = re.compile(
    r"(?:^|.*[\\/])models[\\/](?P<repo>[^\\/]+--[^\\/]+)[\\/]snapshots[\\/](?P<commit>[0-9a-f]{40})(?:[\\/].*)?"
)


class ModelScopeHub(Hub):
    """The Hub at `MODELSCOPE_ENDPOINT`."""

    name = "modelscope"
    alias = "ms"
    default_revision = "master"

    def info(self, repo_id: str, revision: str | None, access: HubAccess) -> RepoInfo:
        """See `Hub.info`. Three requests; two for a full commit."""
        self.check(repo_id)
        _require_online(repo_id, access)
        api, deadline = connected(access), Deadline()
        from modelscope_hub.errors import NotExistError

        def ask() -> RepoInfo:
            repo = api.get_repo(repo_id, _MODEL)
            commit = self._commit(api, repo_id, revision)
            try:
                listing = self._listing(api, repo_id, commit, access)
            except NotExistError as error:  # the repo exists: the request before succeeded
                raise RevisionNotFoundError(
                    f"{repo_id} on ModelScope has no commit {commit}. Check the revision."
                ) from error
            return _repo_info(repo_id, commit, listing, repo)

        with translated_errors(repo_id, revision):
            (found,) = in_parallel([ask], deadline, 1)
        return found

    def cached_repo(self, path: str | os.PathLike[str]) -> tuple[str, str] | None:
        """See `Hub.cached_repo`."""
        match = _SNAPSHOT.fullmatch(os.fspath(path))
        return (match["repo"].replace("--", "/", 1), match["commit"]) if match else None

    def cached_folder(self, repo_id: str, commit: str, access: HubAccess) -> Path | None:
        """See `Hub.cached_folder`."""
        return _folder(repo_id, access) / "snapshots" / commit

    def cached_digests(
        self, repo_id: str, commit: str, names: Sequence[str], access: HubAccess
    ) -> Mapping[str, FileDigest]:
        """See `Hub.cached_digests`. They are in the listing of the commit."""
        listing = _stored_listing(_folder(repo_id, access), commit) or {}
        return {name: FileDigest(sha256=listing[name][1] or None) for name in names if name in listing}

    def cached_commit(self, repo_id: str, revision: str | None, access: HubAccess) -> str | None:
        """See `Hub.cached_commit`."""
        folder = _folder(repo_id, access)
        revision = revision or self.default_revision
        if not is_commit(revision):
            if not is_inside(revision):
                return None
            try:
                revision = (folder / "refs" / revision).read_text(encoding="utf-8").strip()
            except (OSError, ValueError):
                return None
        return revision if is_commit(revision) and (folder / "snapshots" / revision).is_dir() else None

    def full_commit(self, repo_id: str, prefix: str, access: HubAccess) -> str:
        """See `Hub.full_commit`."""
        self.check(repo_id)
        cached = sorted(
            path.name for path in (_folder(repo_id, access) / "snapshots").glob(f"{prefix}*") if is_commit(path.name)
        )
        if len(cached) == 1:
            return cached[0]
        _require_online(repo_id, access)
        api = connected(access)
        with translated_errors(repo_id, None):
            found = [commit for commit in self._history(api, repo_id) if commit.startswith(prefix)]
        if len(found) != 1:
            raise RevisionNotFoundError(
                f"{len(found)} commits of {repo_id} start with {prefix}. Pass the full commit as the revision."
            )
        return found[0]

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
        """See `Hub.snapshot`. One request per missing file, and one for the listing of the commit."""
        self.check(repo_id)
        folder = _folder(repo_id, access)
        snapshot, listing = folder / "snapshots" / commit, _stored_listing(folder, commit)
        wanted = dict.fromkeys((*files, *optional) if _forbidding(access) is None else files)
        for name in wanted:
            if not is_inside(name):
                raise HubServerError(f"{name[:80]!r} is not the name of a file of {repo_id}.")
        missing = [
            name
            for name in wanted
            if (access.force_download or not (snapshot / name).is_file()) and (listing is None or name in listing)
        ]
        if missing:
            _require_online(repo_id, access)
            api = connected(access)
            with translated_errors(repo_id, commit):
                self._download(api, repo_id, commit, missing, snapshot, access, progress=progress)
        if ref != commit and is_inside(ref):
            _write(folder / "refs" / str(ref), commit)
        return snapshot

    def _download(
        self,
        api: Any,
        repo_id: str,
        commit: str,
        names: Sequence[str],
        snapshot: Path,
        access: HubAccess,
        *,
        progress: bool,
    ) -> None:
        from huggingface_hub.utils import tqdm

        deadline = Deadline()
        (listing,) = in_parallel([lambda: self._listing(api, repo_id, commit, access)], deadline, 1)

        class Arrivals:
            """Reports received bytes to the deadline; the SDK creates one per file."""

            def __init__(self, filename: str, file_size: int) -> None:
                pass

            def update(self, size: int) -> None:
                deadline.arrived(size)

            def end(self) -> None:
                pass

        def fetch(name: str) -> None:
            size, sha256 = listing[name]
            if size <= _LARGEST_SMALL:
                fetch_small_file(api, repo_id, commit, name, snapshot / name, listing[name], deadline)
                return
            api.downloader.download_file(
                repo_id,
                _MODEL,
                name,
                commit,
                local_dir=snapshot,  # the SDK's default can be a folder of an older version, with another commit
                force=access.force_download,
                file_size=size,
                expected_sha256=sha256 or None,
                progress_callbacks=[Arrivals],
            )

        calls = [functools.partial(fetch, name) for name in names if name in listing]
        with tqdm(total=len(calls), desc=f"Fetching {len(calls)} files", disable=None if progress else True) as bar:
            for _ in in_parallel(calls, deadline, _PARALLEL_DOWNLOADS):
                bar.update()

    def _commit(self, api: Any, repo_id: str, revision: str | None) -> str:
        if is_commit(revision):
            return revision  # it exists if it has files
        found = commits(api, repo_id, revision or self.default_revision, page=1, size=1)
        if not found:
            raise RevisionNotFoundError(
                f"{repo_id} on ModelScope has no revision {revision or self.default_revision}. Check it at "
                f"{address(api)}/models/{repo_id}/files."
            )
        return found[0]

    def _history(self, api: Any, repo_id: str) -> Iterator[str]:
        for page in range(1, _MOST_PAGES + 1):
            found = commits(api, repo_id, self.default_revision, page=page, size=_PAGE)
            yield from found
            if len(found) < _PAGE:
                return

    def _listing(self, api: Any, repo_id: str, commit: str, access: HubAccess) -> dict[str, tuple[int, str]]:
        """Return size and SHA-256 of the files of a commit. They never change, so they are cached."""
        folder = _folder(repo_id, access)
        if not access.force_download and (known := _stored_listing(folder, commit)) is not None:
            return known
        files = api.list_repo_files(repo_id, _MODEL, revision=commit)
        listing = {
            file.path: (file.size, str(file.sha256 or ""))
            for file in files
            if not file.is_dir and is_inside(file.path)
        }
        if not listing:
            raise RevisionNotFoundError(f"{repo_id} on ModelScope has no files at {commit}. Check the revision.")
        _write(folder / "listings" / f"{commit}.json", json.dumps(listing))
        return listing


def _repo_info(repo_id: str, commit: str, listing: Mapping[str, Any], repo: Any) -> RepoInfo:
    """Return the facts of a repo; a value of a wrong type is dropped."""
    tasks = [task for task in repo.tasks or () if is_text(task)]
    return RepoInfo(
        repo_id=repo_id,
        commit=commit,
        files=tuple(sorted(listing)),
        tags=tuple(tag for tag in repo.tags or () if is_text(tag)),
        pipeline_tag=tasks[0] if tasks else None,
        author=repo_id.partition("/")[0],
        private=repo.private if isinstance(repo.private, bool) else None,
        gated=repo.gated if isinstance(repo.gated, bool) else None,
        downloads=repo.downloads if type(repo.downloads) is int and repo.downloads >= 0 else None,
        likes=repo.likes if type(repo.likes) is int and repo.likes >= 0 else None,
        license=repo.license if is_text(repo.license) else None,
    )


def _folder(repo_id: str, access: HubAccess) -> Path:
    """Return the cache folder of a repo, by the rule of the SDK, so that a load from the cache needs no SDK."""
    base = access.cache_dir or os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope"
    home = os.path.expanduser(base)  # noqa: PTH111 - pathlib's raises where a user has no home
    return Path(home, "models", repo_id.replace("/", "--"))


def _stored_listing(folder: Path, commit: str) -> dict[str, tuple[int, str]] | None:
    try:
        content = parse_json((folder / "listings" / f"{commit}.json").read_bytes())
        return {name: (int(size), str(sha256)) for name, (size, sha256) in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced_atomically(path) as stream:
            stream.write(text.encode())
    except OSError as error:  # a read-only cache; only later offline lookups are affected
        logger.warning("The cache cannot store %s: %s", path, error)


def _forbidding(access: HubAccess) -> str | None:
    """Return the name of the option or variable that forbids requests, or None."""
    if access.local_files_only:
        return "local_files_only"
    from huggingface_hub import constants

    return "HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else None


def _require_online(repo_id: str, access: HubAccess) -> None:
    if (why := _forbidding(access)) is not None:
        raise OfflineError(
            f"Files of {repo_id} are not in the cache, and {why} forbids requests to ModelScope. Unset it once."
        )
