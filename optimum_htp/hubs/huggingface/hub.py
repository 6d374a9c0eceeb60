"""The Hugging Face Hub, with huggingface_hub's session, standard cache and environment variables.

In addition, `OPTIMUM_HTP_TIMEOUT` is the maximum time in seconds without received bytes for a lookup or a download,
including retries: 60 by default.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

from optimum_htp.errors import (
    HubServerError,
    InvalidModelReferenceError,
    OfflineError,
    OptimumHTPError,
    RevisionNotFoundError,
)
from optimum_htp.hubs.base import FileDigest, Hub, HubAccess, RepoInfo, repo_at
from optimum_htp.hubs.deadline import Deadline, in_parallel
from optimum_htp.hubs.error_translation import invalid_repo_id, refusal, translated_errors
from optimum_htp.hubs.http import Answer, ask, token_headers
from optimum_htp.hubs.huggingface.cache import RepoCache
from optimum_htp.hubs.huggingface.large_files import fetch_large_files
from optimum_htp.hubs.huggingface.ranges import ONNX_HEAD, onnx_window, open_hub_file
from optimum_htp.hubs.huggingface.small_files import fetch_small_file, is_small
from optimum_htp.hubs.responses import commit_ids, content_of, file_digests, front_matter, repo_info
from optimum_htp.masking import get_logger
from optimum_htp.onnxfile.wire import ByteWindow
from optimum_htp.parsing import is_inside, is_text

__all__ = ["HuggingFaceHub"]

logger = get_logger(__name__)

_PARALLEL_DOWNLOADS: Final = 8
_LARGEST_ANSWER: Final = 1 << 26  # Bytes; about 500,000 files.
_MOST_PAGES: Final = 100  # Pages of a repo's history.
_TRIES: Final = 3  # Tries of a lookup. The cache can replace it.
_LARGEST_CARD: Final = 1 << 20  # Bytes of a model card that are read.
_WITH_DIGESTS: Final = "blobs=true"  # With it, the response contains the sha256 of large files.
_README: Final = "README.md"
# The layout of the cache: https://huggingface.co/docs/huggingface_hub/guides/manage-cache
_SNAPSHOT: Final = re.compile(
    r"(?:^|.*[\\/])models--(?P<repo>[^\\/]+)[\\/]snapshots[\\/](?P<commit>[0-9a-f]{40})(?:[\\/].*)?"
)
_NEXT_PAGE: Final = re.compile(r'<([^<>]+)>;\s*rel="next"')


class HuggingFaceHub(Hub):
    """The Hub at `HF_ENDPOINT`."""

    name = "huggingface"
    alias = "hf"

    def check(self, repo_id: str) -> None:
        """See `Hub.check`."""
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        try:
            validate_repo_id(repo_id)
        except HFValidationError as error:
            raise invalid_repo_id(repo_id) from error

    def cached_repo(self, path: str | os.PathLike[str]) -> tuple[str, str] | None:
        """See `Hub.cached_repo`."""
        match = _SNAPSHOT.fullmatch(os.fspath(path))
        return (match["repo"].replace("--", "/"), match["commit"]) if match else None

    def cached_folder(self, repo_id: str, commit: str, access: HubAccess) -> Path | None:
        """See `Hub.cached_folder`."""
        return RepoCache(repo_id, access).snapshot(commit)

    def cached_digests(
        self, repo_id: str, commit: str, names: Sequence[str], access: HubAccess
    ) -> Mapping[str, FileDigest]:
        """See `Hub.cached_digests`. A link of a snapshot points to a blob, which is named by its digest."""
        cache = RepoCache(repo_id, access)
        return {name: digest for name in names if (digest := cache.digest(commit, name)) is not None}

    @contextmanager
    def opened(self, repo_id: str, revision: str | None, name: str, access: HubAccess) -> Iterator[ByteWindow]:
        """See `Hub.opened`. Only the parts that are read are downloaded."""
        self.check(repo_id)
        _check_revision(repo_id, revision)
        yield onnx_window(open_hub_file(repo_id, revision, name, access, ONNX_HEAD))

    def info(self, repo_id: str, revision: str | None, access: HubAccess) -> RepoInfo:
        """See `Hub.info`. One request; two more if the model card must be downloaded."""
        if access.local_files_only:
            raise OfflineError(
                f"{repo_id} is not cached, and local_files_only is set. Run once without it to download the model."
            )
        _check_revision(repo_id, revision)
        path = "" if revision is None else f"/revision/{quote(revision, safe='')}"
        with translated_errors(repo_id, revision):
            answer = self._asked(f"{_api(repo_id)}{path}?{_WITH_DIGESTS}", repo_id, revision, access, Deadline())
            content = content_of(answer.body, repo_at(repo_id, revision))
            info = repo_info(content, repo_id, revision)
        if isinstance(content.get("cardData"), dict) and content["cardData"]:
            return info
        return repo_info({**content, "cardData": self._model_card(info, access)}, repo_id, revision)

    def cached_commit(self, repo_id: str, revision: str | None, access: HubAccess) -> str | None:
        """See `Hub.cached_commit`."""
        try:
            self.check(repo_id)
        except InvalidModelReferenceError:
            return None
        return RepoCache(repo_id, access).commit(revision or self.default_revision)

    def full_commit(self, repo_id: str, prefix: str, access: HubAccess) -> str:
        """See `Hub.full_commit`. huggingface_hub accepts only full commits, so a prefix is never passed to it."""
        self.check(repo_id)
        cached = RepoCache(repo_id, access).commits(prefix)
        if len(cached) == 1:
            return cached[0]
        if access.local_files_only:
            raise OfflineError(
                f"The cache has no commit {prefix} of {repo_id}, and local_files_only is set. Run once without it."
            )
        with translated_errors(repo_id, None):
            found = [commit for commit in self._history(repo_id, access) if commit.startswith(prefix)]
        if len(found) != 1:
            raise RevisionNotFoundError(
                f"{len(found)} commits of {repo_id} begin with {prefix}. Pass the full commit with revision=."
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
        """See `Hub.snapshot`. One request per missing file; one more for a large file or with some proxies."""
        from huggingface_hub import constants

        self.check(repo_id)
        if not (access.local_files_only or constants.HF_HUB_OFFLINE):
            files = (*files, *optional)
        cache = RepoCache(repo_id, access)
        for name in files:
            if not is_inside(name):
                raise HubServerError(f"{name[:80]!r} is not a valid file name in {repo_id}.")
        missing = [name for name in files if access.force_download or not cache.knows(commit, name)]
        if missing:
            with translated_errors(repo_id, commit):
                self._download(repo_id, commit, tuple(dict.fromkeys(missing)), access, cache, progress=progress)
        if ref is not None and ref != commit:
            cache.note(ref, commit)
        return cache.snapshot(commit)

    def digests(self, repo_id: str, commit: str, access: HubAccess) -> Mapping[str, FileDigest]:
        """See `Hub.digests`. One request per thousand files."""
        if access.local_files_only:
            raise OfflineError(
                f"The list of files of {repo_id} is not cached, and local_files_only is set. Run once without it."
            )
        about = f"the files of {repo_id} at {commit}"
        url = f"{_api(repo_id)}/tree/{quote(commit, safe='')}?recursive=true"
        found: dict[str, FileDigest] = {}
        with translated_errors(repo_id, commit):
            for answer in self._pages(url, repo_id, commit, access):
                found |= file_digests(answer.body, about)
        return found

    def _download(
        self,
        repo_id: str,
        commit: str,
        names: Sequence[str],
        access: HubAccess,
        cache: RepoCache,
        *,
        progress: bool,
    ) -> None:
        from huggingface_hub.utils import tqdm

        if access.local_files_only:
            raise OfflineError(
                f"{names[0]} of {repo_id} at {commit} is not cached, and local_files_only is set. Run once without it "
                "to download the file."
            )
        headers, deadline = token_headers(access), Deadline()
        small = [
            functools.partial(
                fetch_small_file, repo_id, commit, name, cache, headers, deadline, anew=access.force_download
            )
            for name in names
            if is_small(name)
        ]
        large = [name for name in names if not is_small(name)]
        with tqdm(total=len(names), desc=f"Fetching {len(names)} files", disable=None if progress else True) as bar:
            for _ in in_parallel(small, deadline, _PARALLEL_DOWNLOADS):
                bar.update()
            for _ in fetch_large_files(repo_id, commit, large, access):
                bar.update()

    def _asked(self, url: str, repo_id: str, revision: str | None, access: HubAccess, deadline: Deadline) -> Answer:
        """Send a request whose response is read completely; return the response, if it is not a rejection."""
        from huggingface_hub import constants
        from huggingface_hub.utils import validate_repo_id

        validate_repo_id(repo_id)
        call = functools.partial(
            ask,
            "GET",
            url,
            {**token_headers(access), "Accept-Encoding": "gzip"},
            deadline,
            timeout=constants.HF_HUB_ETAG_TIMEOUT,
            limit=_LARGEST_ANSWER,
            tries=_TRIES,
        )
        (answer,) = in_parallel([call], deadline, 1)
        if answer.status != 200:
            raise refusal(answer, repo_id, revision)
        return answer

    def _history(self, repo_id: str, access: HubAccess) -> list[str]:
        """Return a repo's commits, page by page."""
        pages = self._pages(f"{_api(repo_id)}/commits/{self.default_revision}", repo_id, None, access)
        return [commit for page in pages for commit in commit_ids(page.body, f"the commits of {repo_id}")]

    def _pages(self, url: str, repo_id: str, revision: str | None, access: HubAccess) -> Iterator[Answer]:
        """Yield the pages of a long response. Too many pages are an error: a part is never used as the whole."""
        deadline = Deadline()
        for _ in range(_MOST_PAGES):
            answer = self._asked(url, repo_id, revision, access, deadline)
            yield answer
            following = _NEXT_PAGE.search(answer.headers.get("Link", ""))
            if following is None:
                return
            url = _next_page(url, following[1])
        raise HubServerError(f"{url} has more than {_MOST_PAGES} pages. Check HF_ENDPOINT and any proxy in between.")

    def _model_card(self, info: RepoInfo, access: HubAccess) -> Mapping[str, Any]:
        """Read the card's data from the repo, for Hubs whose responses do not contain it."""
        if _README not in info.files:
            return {}
        try:
            folder = self.snapshot(info.repo_id, info.commit, [_README], access)
            with (folder / _README).open("rb") as stream:
                text = stream.read(_LARGEST_CARD)
        except (OptimumHTPError, OSError) as error:
            logger.info("The model card of %s cannot be read: %s", info.repo_id, error)
            return {}
        return front_matter(text.decode(errors="replace"))


def _check_revision(repo_id: str, revision: str | None) -> None:
    """Reject names that git refs cannot have (git-check-ref-format): `..` would change the address."""
    if revision is not None and (not is_text(revision) or {"", ".", ".."} & set(revision.split("/"))):
        raise InvalidModelReferenceError(
            f"{revision[:80]!r} is not a valid revision of {repo_id}. Check the branch, tag or commit."
        )


def _next_page(url: str, named: str) -> str:
    """Return the address of the next page on the contacted host. A proxy passes on the address of the Hub."""
    from huggingface_hub import constants

    following, here = urlsplit(urljoin(url, named)), urlsplit(url)
    if following[:2] != here[:2] and urlsplit(constants.ENDPOINT).path.strip("/"):
        raise HubServerError(f"The next page of {url} is {named[:200]!r}, on another host. Check HF_ENDPOINT.")
    return urlunsplit((*here[:2], following.path, following.query, ""))


def _api(repo_id: str) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/api/models/{repo_id}"
