"""Downloads weights and other large files of a commit with huggingface_hub, which can resume them and supports Xet.

huggingface_hub uses two headers in paths, the commit and the ETag. The responses to its requests in our threads are
checked before it uses them.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from optimum_htp.errors import DownloadError, HubTimeoutError, HubUnreachableError, OptimumHTPError, RateLimitedError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.hubs.deadline import Deadline, waiting_out
from optimum_htp.hubs.error_translation import too_many_requests, translated_errors
from optimum_htp.hubs.http import TOO_MANY_REQUESTS, ask, http_errors, redirection, token_headers
from optimum_htp.hubs.huggingface.cache import RepoCache
from optimum_htp.hubs.huggingface.small_files import check_commit, trusted_etag
from optimum_htp.hubs.huggingface.transfers import HINT, Transfers, is_xet_in_use, xet_failure
from optimum_htp.hubs.unreachable import CLIENT_LOGGER, causes, heard
from optimum_htp.masking import get_logger

__all__ = ["fetch_large_files"]

logger = get_logger(__name__)

_PARALLEL: Final = 8
# huggingface_hub tries six times if there is no response, with these pauses in seconds.
_ITS_TRIES: Final = 6
_ITS_PAUSES: Final = 23.0

_expected = threading.local()


def fetch_large_files(repo_id: str, commit: str, names: Sequence[str], access: HubAccess) -> Iterator[None]:
    """Download files in parallel, and yield as each one ends. Files that the commit does not have are left out."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        FileMetadataError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    blobs = RepoCache(repo_id, access).folder / "blobs"
    for_each = max((Deadline().seconds - _ITS_PAUSES) / _ITS_TRIES, 1.0)
    transfers = Transfers()

    def fetch(name: str, endpoint: str | None = None) -> None:
        what = f"{name} of {repo_id}"
        with translated_errors(repo_id, commit), _explained(what):
            try:
                with _watched(what, commit, transfers), _giving_up_stalls(blobs):
                    hf_hub_download(
                        repo_id,
                        name,
                        revision=commit,
                        cache_dir=access.cache_dir,
                        token=access.token,
                        force_download=access.force_download,
                        etag_timeout=min(constants.HF_HUB_ETAG_TIMEOUT, for_each),
                        endpoint=endpoint,
                        **_without_hf_transfer(),
                    )
            except (FileMetadataError, LocalEntryNotFoundError, RepositoryNotFoundError) as error:
                lost = (FileMetadataError, RepositoryNotFoundError)
                is_lost = any(isinstance(cause, lost) for cause in causes(error))
                hub = _behind_mirror(repo_id, commit, name, access) if is_lost and endpoint is None else None
                if hub is None:
                    raise
                fetch(name, hub)
            except EntryNotFoundError:
                logger.debug("%s@%s has no %s", repo_id, commit, name)

    calls = [functools.partial(waiting_out, functools.partial(fetch, name), Deadline()) for name in names]
    try:
        yield from transfers.run(calls, _PARALLEL)
    except TimeoutError as error:
        if isinstance(error, OptimumHTPError):
            raise
        raise HubTimeoutError(
            f"Files of {repo_id} could not be downloaded through Xet: {transfers.stalled()}."
        ) from error


def _without_hf_transfer() -> dict[str, Any]:
    """Return the arguments that keep huggingface_hub before 1.0 from using hf_transfer if it is enabled.

    hf_transfer holds the interpreter's lock during a transfer, so neither a timeout nor Ctrl-C can end it if a server
    is silent. `proxies` is the only argument that disables it; if empty, the proxies of the environment are still
    used.
    """
    from huggingface_hub import constants

    return {"proxies": {}} if getattr(constants, "HF_HUB_ENABLE_HF_TRANSFER", False) else {}


def _behind_mirror(repo_id: str, commit: str, name: str, access: HubAccess) -> str | None:
    """Return the Hub that a mirror redirects to; None for no redirect.

    huggingface_hub before 1.30 does not follow the redirect. Newer versions follow it without the token when they
    download files of Xet over HTTP.
    """
    from huggingface_hub import constants, hf_hub_url

    url, timeout = hf_hub_url(repo_id, name, revision=commit), float(constants.HF_HUB_ETAG_TIMEOUT)
    answer = ask("HEAD", url, token_headers(access), Deadline(), timeout=timeout, limit=0, tries=1, stay=True)
    here, there = urlsplit(url), urlsplit(answer.url)
    return None if here[:2] == there[:2] else f"{there.scheme}://{there.netloc}"


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Explain failures of transfers below HTTP (Xet)."""
    try:
        yield
    except Exception as error:
        failure = xet_failure(error)
        if failure is None or isinstance(error, (OptimumHTPError, *http_errors().transport)):
            raise
        text, too_many = failure
        if not _expected.by_xet:  # Another failure of huggingface_hub.
            if isinstance(error, TimeoutError) or error.__cause__ is not None:
                raise
            raise DownloadError(f"{what} could not be downloaded: {text}") from error
        message = f"{what} could not be downloaded through Xet: {text}. {HINT}."
        raise (RateLimitedError if too_many else HubUnreachableError)(message) from error


@contextmanager
def _giving_up_stalls(blobs: Path) -> Iterator[None]:
    """Keep huggingface_hub from waiting for the same bytes longer than `Deadline` allows.

    It tries a request without a response, and a download without progress, six times, and this number cannot be set.
    Before each further try it logs a warning in the waiting thread. Only then can it be stopped. `blobs` is the folder
    that it writes to.
    """
    stalls = _Stalls(blobs)
    with heard("huggingface_hub.file_download", stalls.check), heard(CLIENT_LOGGER, stalls.check):
        yield


class _Stalls:
    def __init__(self, blobs: Path) -> None:
        self._blobs = blobs
        self._size = self._arrived()
        self._since = self._last = time.monotonic()

    def check(self) -> None:
        """Raise `TimeoutError` if no bytes were received, and one more try would exceed the limit."""
        from huggingface_hub import constants

        now, size = time.monotonic(), self._arrived()
        took = min(now - self._last, float(constants.HF_HUB_DOWNLOAD_TIMEOUT))  # This try, and the next one.
        self._last = now
        if size != self._size:
            self._size, self._since = size, now - took
        elif now - self._since + took > Deadline().seconds:
            raise TimeoutError(f"no bytes were received for {now - self._since:.0f} seconds")

    def _arrived(self) -> int:
        size = 0
        for path in self._blobs.glob("*.incomplete"):
            with suppress(FileNotFoundError):  # Another file was completed in the meantime.
                size += path.stat().st_size
        return size


@contextmanager
def _watched(what: str, commit: str, transfers: Transfers) -> Iterator[None]:
    """Check every response to a HEAD request of this thread while the block runs.

    With requests, each thread has its own session, which is hooked for this time. With httpx, all threads share one
    session; the hook stays there, and does nothing for threads outside such a block.
    """
    from huggingface_hub.utils import get_session

    session: Any = get_session()
    _expected.file, _expected.transfers, _expected.by_xet = (what, commit), transfers, False
    try:
        if hasattr(session, "event_hooks"):
            hooks = session.event_hooks
            if _look_at not in hooks["response"]:
                session.event_hooks = {**hooks, "response": [*hooks["response"], _look_at]}
            yield
        else:
            session.hooks["response"].append(_look_at)
            try:
                yield
            finally:
                session.hooks["response"].remove(_look_at)
    finally:
        _expected.file = None


def _look_at(response: Any, *args: Any, **kwargs: Any) -> None:
    file: tuple[str, str] | None = getattr(_expected, "file", None)
    if file is None:
        return
    redirection(str(response.url), response)
    what, commit = file
    if response.status_code == TOO_MANY_REQUESTS:  # Otherwise, huggingface_hub 1.0 and newer waits by itself.
        raise too_many_requests(response.headers, f"{what} at {commit}")
    if response.request.method != "HEAD":
        return
    if "X-Xet-Hash" in response.headers and is_xet_in_use():
        _expected.by_xet = True
        _expected.transfers.by_xet()
    if response.status_code < 300 or "X-Repo-Commit" in response.headers:
        check_commit(response.headers, what, commit)
    if response.status_code < 300 or (response.status_code < 400 and "X-Repo-Commit" in response.headers):
        trusted_etag(response.headers, what)
