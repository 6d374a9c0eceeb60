"""Files on the Hugging Face Hub and at other http(s) addresses, read with range requests.

The address is resolved first, with HEAD and without `Range`: the Hub signs the address of its storage for the
request, and an address that was requested with `Range` is valid for that range only. The resolved address is used
until the storage rejects it, because signed addresses expire. Then it is resolved again.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urljoin, urlsplit

from optimum_htp.errors import (
    DamagedDownloadError,
    HubServerError,
    InvalidModelReferenceError,
    OfflineError,
    OnnxFileNotFoundError,
    OptimumHTPError,
    RangesNotServedError,
)
from optimum_htp.hubs.base import HubAccess, repo_at
from optimum_htp.hubs.deadline import Deadline
from optimum_htp.hubs.error_translation import refusal, translated_errors
from optimum_htp.hubs.http import TOO_MANY_REQUESTS, Answer, ask, headers_for, is_trusted, token_headers
from optimum_htp.onnxfile.wire import ByteWindow

__all__ = ["CHUNK", "ONNX_HEAD", "RemoteFile", "file_at", "onnx_window", "open_address", "open_hub_file"]

ONNX_HEAD: Final = 1 << 12  # Bytes of the first request. The fields before the graph are short.
CHUNK: Final = (1 << 16) - ONNX_HEAD  # Bytes of each further request, for the properties after the graph.
_TIMEOUT: Final = 10.0  # Seconds, as in huggingface_hub.
_TRIES: Final = 3
_RENEWALS: Final = 3  # Renewals of an address, per range.
_EXPIRED: Final = (400, 401, 403, 404, 410)  # Responses of storages for an address that has expired or moved.
_HTML: Final = "text/html"
_PAGES: Final = (b"<!doctype html", b"<html")
_FILE_PAGE: Final = re.compile(r"^(https?://[^?#]+?)/blob/")
_REPO_PAGE: Final = re.compile(
    r"/(?P<repo>[^/?#]+/[^/?#]+)(?:/tree/(?P<revision>refs/[^/?#]+/[^/?#]+|[^/?#]+)(?:/(?P<folder>[^?#]+))?)?/?(?:[?#].*)?"
)
_ADDRESS: Final = re.compile(
    r"/(?P<repo>[^/?#]+(?:/[^/?#]+)?)/resolve/(?P<revision>refs/[^/?#]+/[^/?#]+|[^/?#]+)/(?P<file>[^?#]+)(?:[?#].*)?"
)
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII)


@dataclass(frozen=True)
class _Label:
    """The name of a file for messages, its repo on a Hub, and what to type instead of the address of a web page."""

    name: str
    repo_id: str | None = None
    revision: str | None = None
    instead: str = "Pass the address that downloads the file."


@dataclass(frozen=True)
class _Target:
    """The current address of the file, and the headers for requests."""

    url: str
    headers: Mapping[str, str]
    etag: str | None


class RemoteFile:
    """A file that is read with range requests. It can be used from any thread.

    The first `head` bytes are requested at once. The response contains the size of the file. A token in the headers is
    sent only to the host of the address and to the Hub. `fetched` counts the bytes that were transferred.

    Raises:
        OnnxFileNotFoundError: The file does not exist.
        InvalidModelReferenceError: The address is a web page.
        RangesNotServedError: The server sends whole files only.
        OptimumHTPError: The file cannot be read; the subclass gives the reason. Reading raises it too.
    """

    def __init__(self, place: _Label, address: str, headers: Mapping[str, str], head: int) -> None:
        self.name = place.name
        self._place, self._address = place, address
        self._headers = {**headers, "Accept-Encoding": "identity"}
        self._lock = threading.Lock()
        self._etags: dict[str, str] = {}
        self.size = -1
        self.fetched = 0
        with self._translated():
            self._target = self._resolved()
        self.head = self._range(0, head)
        if self.head.lstrip().lower().startswith(_PAGES):
            raise self._page()

    def read(self, start: int, length: int) -> bytes:
        """Return bytes of the file, fewer only at its end."""
        length = min(length, self.size - start)
        if start + length <= len(self.head):
            return self.head[start : start + length]
        return self._range(start, length)

    def _range(self, start: int, length: int) -> bytes:
        with self._translated():
            deadline, target = Deadline(), self._target
            answer = self._asked(target, start, length, deadline)
            for _ in range(_RENEWALS):
                if answer.status not in _EXPIRED or is_trusted(target.url, self._address):
                    break
                target = self._renewed(target)
                answer = self._asked(target, start, length, deadline)
            if answer.status != 206:
                raise self._refused(answer)
            with self._lock:
                self.fetched += len(answer.body)
            return answer.body

    def _asked(self, target: _Target, start: int, length: int, deadline: Deadline) -> Answer:
        wanted = {**target.headers, "Range": f"bytes={start}-{start + length - 1}"}

        def check(answer: Answer) -> bool:
            if answer.status != 206:
                if answer.headers.get("Content-Type", "").strip().lower().startswith(_HTML):
                    raise self._page()
                raise RangesNotServedError(
                    f"{self._place.name}: the server does not support range requests. Download the file first."
                )
            self._check(answer, start, length)
            return True

        return ask("GET", target.url, wanted, deadline, timeout=_TIMEOUT, limit=length, tries=_TRIES, wanted=check)

    def _check(self, answer: Answer, start: int, length: int) -> None:
        """Reject a response with another range than requested, or of a changed file."""
        match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
        if match is None:
            raise HubServerError(f"{self._place.name}: the server does not report the file's size. Download it first.")
        begin, end, total = map(int, match.groups())
        if begin != start or not begin <= end < total or end != min(start + length, total) - 1:
            raise HubServerError(
                f"{self._place.name}: the server sent another range than {start}-. Download the file first."
            )
        etag = _strong(answer.headers.get("ETag"))
        with self._lock:
            known = self._etags.setdefault(urlsplit(answer.url).netloc, etag or "")
            if self.size in (-1, total) and (not etag or known in ("", etag)):
                self.size = total
                return
        raise self._changed()

    def _resolved(self) -> _Target:
        """Resolve the address. A server that is not a Hub may reject HEAD; then the address is used as it is."""
        is_hub = self._place.repo_id is not None
        answer = ask(
            "HEAD",
            self._address,
            self._headers,
            Deadline(),
            timeout=_TIMEOUT,
            limit=0,
            tries=_TRIES if is_hub else 1,
            stay=True,
        )
        if answer.status >= 400:
            if is_hub or answer.status == TOO_MANY_REQUESTS:
                raise self._refused(answer)
            return _Target(self._address, self._headers, None)
        url = urljoin(answer.url, answer.headers.get("Location", ""))
        etag = _strong(answer.headers.get("X-Linked-Etag") or answer.headers.get("ETag"))
        return _Target(url, headers_for(url, self._address, self._headers), etag)

    def _renewed(self, old: _Target) -> _Target:
        """Return a new target for a rejected one. Waiting threads share one request."""
        with self._lock:
            if self._target is not old:
                return self._target
        new = self._resolved()
        if new.etag != old.etag:
            raise self._changed()
        with self._lock:
            self._target = new
        return new

    def _page(self) -> InvalidModelReferenceError:
        return InvalidModelReferenceError(f"{self._place.name} is a web page, not a file. {self._place.instead}")

    def _changed(self) -> DamagedDownloadError:
        return DamagedDownloadError(f"{self._place.name} changed while it was read. Try again.")

    def _refused(self, answer: Answer) -> OptimumHTPError:
        place, code = self._place, answer.headers.get("X-Error-Code")
        if not is_trusted(answer.url, self._address) and answer.status != TOO_MANY_REQUESTS:
            return HubServerError(
                f"{place.name}: its storage at {urlsplit(answer.url).netloc} responded with {answer.status}. Try "
                "again."
            )
        if answer.status == 404 and code is None:  # Not the response of a Hub.
            return OnnxFileNotFoundError(f"There is no file at {place.name}. Check the address.")
        if code == "EntryNotFound":
            return OnnxFileNotFoundError(f"There is no file at {place.name}. Check repo, revision and path.")
        return refusal(answer, place.repo_id or place.name, place.revision, is_hub=place.repo_id is not None)

    def _translated(self) -> AbstractContextManager[None]:
        return translated_errors(self._place.repo_id or self._place.name, self._place.revision)


def onnx_window(file: RemoteFile) -> ByteWindow:
    """Return a window over an ONNX file that sends a range request for each missing part."""
    return ByteWindow(file.read, file.name, file.size, CHUNK, head=file.head)


def open_hub_file(repo_id: str, revision: str | None, path: str, access: HubAccess, head: int) -> RemoteFile:
    """Open a file in a repo, at the default branch if the revision is None.

    Raises:
        OfflineError: Connections are forbidden. For others see `RemoteFile`.
    """
    from huggingface_hub import hf_hub_url

    if access.local_files_only:
        where = repo_at(repo_id, revision)
        raise OfflineError(f"{path} of {where} is not in the cache and local_files_only is set. Run once without it.")
    url = hf_hub_url(repo_id, path, revision=revision)
    return RemoteFile(_Label(f"{path} of {repo_id}", repo_id, revision), url, token_headers(access), head)


def open_address(url: str, access: HubAccess, head: int) -> RemoteFile:
    """Open a file at an http(s) address.

    The address of a Hub page that shows a file is accepted too. Only the Hub at `HF_ENDPOINT` gets the token.
    """
    from huggingface_hub import constants

    address = _address_of(url)
    match = _ADDRESS.fullmatch(address.removeprefix(constants.ENDPOINT))
    if match is None:
        return RemoteFile(_place_of_page(url, constants.ENDPOINT), address, {}, head)
    place = _Label(url, match["repo"], unquote(match["revision"]))
    return RemoteFile(place, address, token_headers(access), head)


def file_at(url: str) -> tuple[str, str, str] | None:
    """Return repo, revision and file of an address on a Hub, also of a page for a file; None for other addresses."""
    from huggingface_hub import constants

    address = _address_of(url)
    rest = address.removeprefix(constants.ENDPOINT)
    # The address is on the Hub, and HF_ENDPOINT is a mirror.
    if rest == address and is_trusted(address, constants.ENDPOINT):
        rest = urlsplit(address).path
    match = _ADDRESS.fullmatch(rest)
    return None if match is None else (match["repo"], unquote(match["revision"]), unquote(match["file"]))


def _address_of(url: str) -> str:
    """Return the download address for a page of a Hub that shows a file; any other address unchanged."""
    from huggingface_hub import constants

    return _FILE_PAGE.sub(r"\1/resolve/", url, count=1) if is_trusted(url, constants.ENDPOINT) else url


def _place_of_page(url: str, endpoint: str) -> _Label:
    """Return a label with what to type, in case the address is that of a repo's page."""
    match = _REPO_PAGE.fullmatch(url.removeprefix(endpoint))
    if match is None:
        return _Label(url)
    repo, revision = match["repo"], match["revision"] or "main"
    file = f"{match['folder'].strip('/')}/FILE.onnx" if match["folder"] else "FILE.onnx"
    return _Label(
        url,
        instead=f"Name the ONNX file: {endpoint}/{repo}/resolve/{revision}/{file}, or hf://{repo}@{revision}/{file}. "
        f"If the repo has only one ONNX file, hf://{repo}@{revision} is enough.",
    )


def _strong(etag: str | None) -> str | None:
    return etag.strip().removeprefix("W/") or None if etag else None
