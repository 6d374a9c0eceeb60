"""Reading what an ONNX file says about itself where it lies, without downloading it.

`hf://[org/]repo[@revision]/path/model.onnx` and http(s) URLs are read by HTTP range requests: one for the head of
the file, one for its tail, where a writer put the metadata behind the graph, as they do; more where not. Any
other URL is read through fsspec.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from optimum_htp.errors import (
    HFHubIntegrationError,
    HubServerError,
    InvalidModelReferenceError,
    ModelNotFoundError,
    OfflineError,
    OnnxFileNotFoundError,
    UnreadableUrlError,
)
from optimum_htp.hubs.base import HubAccess
from optimum_htp.hubs.http import Answer, CutOffError, opened, pieces
from optimum_htp.hubs.patience import Patience, waiting_out
from optimum_htp.hubs.refusals import refusal, translated_errors
from optimum_htp.onnxfile.reader import ModelHeader, header_of
from optimum_htp.onnxfile.wire import ByteWindow

__all__ = ["HubRanges", "is_url", "opened_url", "read_hub_header", "read_remote_header"]

_CHUNK: Final = 1 << 16
_TIMEOUT: Final = 10.0  # seconds, as huggingface_hub's own
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII)
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
# The revision may have slashes only in a reference such as refs/pr/1, or escaped as %2F.
_HUB_URLS: Final = tuple(
    re.compile(rf"hf://(?:models/)?(?P<repo>{repo})(?:@(?P<revision>refs/[^/]+/[^/]+|[^/]+))?/(?P<path>{path})")
    for repo, path in (("[^/@]+/[^/@]+", ".+"), ("[^/@]+", r".+\.onnx"))  # gpt2 and others have no organization
)


def is_url(text: str) -> bool:
    """Whether a text is a URL rather than a path."""
    return _SCHEME.match(text) is not None


def read_remote_header(url: str, access: HubAccess | None = None) -> ModelHeader:
    """Return everything but the graph of an ONNX file that is somewhere else. The model is not downloaded.

    Raises:
        InvalidModelReferenceError: An `hf://` URL that names no file.
        OnnxFileNotFoundError: There is no such file.
        InvalidOnnxFileError: What is there is not an ONNX model.
        HFHubIntegrationError: It cannot be reached; the subclass says why.
    """
    with opened_url(url, access or HubAccess()) as window:
        return header_of(window)


def read_hub_header(repo_id: str, revision: str | None, path: str, access: HubAccess) -> ModelHeader:
    """Return everything but the graph of an ONNX file in a repo. The model is not downloaded.

    Raises:
        OnnxFileNotFoundError, InvalidOnnxFileError, HFHubIntegrationError: As `read_remote_header`.
    """
    window = _hub_window(f"{path} of {repo_id}", repo_id, revision, path, access)
    with translated_errors(repo_id, revision):
        return header_of(window)


@contextmanager
def opened_url(url: str, access: HubAccess) -> Iterator[ByteWindow]:
    """Open a file at a URL for reading in pieces."""
    if url.startswith("hf://"):
        with _opened_hub_file(url, access) as window:
            yield window
    elif url.startswith(("http://", "https://")):
        try:
            with translated_errors(url, None):
                window = _http_window(_Place(url), url, {})
        except UnicodeError as error:
            raise InvalidModelReferenceError(f"{url} is not an address: {error}") from error
        with translated_errors(url, None):
            yield window
    else:
        with _opened_by_fsspec(url) as window:
            yield window


@contextmanager
def _opened_hub_file(url: str, access: HubAccess) -> Iterator[ByteWindow]:
    readings = [match for pattern in _HUB_URLS if (match := pattern.fullmatch(url))]
    if not readings:
        raise InvalidModelReferenceError(
            f"{url} names no file: write hf://organization/repo[@revision]/path/model.onnx."
        )
    first, *others = readings
    try:
        repo, revision, window = _opened_reading(url, first, access)
    except ModelNotFoundError as error:
        if not others:
            raise
        try:
            repo, revision, window = _opened_reading(url, others[0], access)
        except ModelNotFoundError:
            raise error from None
    with translated_errors(repo, revision):
        yield window


def _opened_reading(url: str, match: re.Match[str], access: HubAccess) -> tuple[str, str | None, ByteWindow]:
    revision = match["revision"] and match["revision"].replace("%2F", "/")
    return match["repo"], revision, _hub_window(url, match["repo"], revision, match["path"], access)


class HubRanges:
    """A file in a repo, read by range requests; from any thread.

    The first request, made at once, brings its first bytes and says how many it has.

    Args:
        repo_id: The repo.
        revision: Branch, tag or commit.
        path: The file in it.
        access: How to reach the Hub.

    Attributes:
        size: Of the file, in bytes.
        fetched: Bytes that have come over the network.

    Raises:
        OfflineError: Connections are forbidden.
        OnnxFileNotFoundError, HFHubIntegrationError: As `read_remote_header`; reading too.
    """

    def __init__(self, repo_id: str, revision: str, path: str, access: HubAccess) -> None:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers

        self._place = _Place(f"{path} of {repo_id}", repo_id, revision)
        if access.local_files_only:
            raise OfflineError(
                f"{self._place.name} at {revision} is not in the cache, and local_files_only forbids to fetch it."
            )
        with translated_errors(repo_id, revision):
            address = hf_hub_url(repo_id, path, revision=revision)
            headers = build_hf_headers(token=access.token)
            self._first = _get_range(self._place, address, headers, 0, _CHUNK)
        same_host = urlsplit(self._first.url)[:2] == urlsplit(address)[:2]
        self._headers = headers if same_host else {}
        self._lock = threading.Lock()
        self.size = self._first.total
        self.fetched = len(self._first.content)

    def read(self, start: int, length: int) -> bytes:
        """Return bytes of the file, fewer only at its end."""
        length = min(length, self.size - start)
        if start + length <= len(self._first.content):
            return self._first.content[start : start + length]
        with translated_errors(self._place.repo_id or "", self._place.revision):
            content = _get_range(self._place, self._first.url, self._headers, start, length).content
        with self._lock:
            self.fetched += len(content)
        return content


def _hub_window(name: str, repo_id: str, revision: str | None, path: str, access: HubAccess) -> ByteWindow:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    with translated_errors(repo_id, revision):
        address = hf_hub_url(repo_id, path, revision=revision)
        return _http_window(_Place(name, repo_id, revision), address, build_hf_headers(token=access.token))


@dataclass(frozen=True)
class _Place:
    """What is read, in words: its name, and for files of a Hub their repo and its revision."""

    name: str
    repo_id: str | None = None
    revision: str | None = None


def _http_window(place: _Place, address: str, headers: Mapping[str, str]) -> ByteWindow:
    """Make the first range request, and a window that makes the others where that one was answered from.

    The token goes to the Hub alone: a redirect to the host that stores the file drops it, and so do we.
    """
    first = _get_range(place, address, headers, 0, _CHUNK)
    again = headers if urlsplit(first.url)[:2] == urlsplit(address)[:2] else {}

    def fetch(start: int, length: int) -> bytes:
        if start + length <= len(first.content):
            return first.content[start : start + length]
        return _get_range(place, first.url, again, start, length).content

    return ByteWindow(fetch, place.name, first.total, _CHUNK)


@dataclass(frozen=True)
class _Range:
    """Some bytes of a file, where they came from, and how many the file has."""

    content: bytes
    url: str
    total: int


def _get_range(place: _Place, address: str, headers: Mapping[str, str], start: int, length: int) -> _Range:
    patience = Patience()
    wanted = {**headers, "Range": f"bytes={start}-{start + length - 1}", "Accept-Encoding": "identity"}
    return waiting_out(lambda: _answered_range(place, address, wanted, start, length, patience), patience)


def _answered_range(
    place: _Place, address: str, wanted: Mapping[str, str], start: int, length: int, patience: Patience
) -> _Range:
    """Request a range of bytes. A server that sends the whole file is hung up on."""
    with opened("GET", address, wanted, patience, timeout=_TIMEOUT) as response:
        if response.status_code >= 400:
            raise _refused(place, response)
        if response.status_code != 206:
            raise HubServerError(f"{place.name}: the server does not answer range requests. Download the file first.")
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
        if match is None:
            raise HubServerError(f"{place.name}: the server does not say how large the file is. Download it first.")
        begin, end, total = map(int, match.groups())
        if begin != start or not begin <= end < total:
            raise HubServerError(
                f"{place.name}: the server sent another range than {start}-. Download the file first."
            )
        content = bytearray()
        expected = min(length, end - begin + 1)
        for piece in pieces(response):
            content += piece
            patience.arrived(len(piece))
            if len(content) >= expected:
                break
        if len(content) < expected:
            raise CutOffError(f"{len(content)} bytes of {expected} arrived of {place.name}")
        return _Range(bytes(content[:expected]), str(response.url), total)


def _refused(place: _Place, response: Any) -> HFHubIntegrationError:
    code = response.headers.get("X-Error-Code")
    if response.status_code == 404 and code is None:  # not a Hub's answer
        return OnnxFileNotFoundError(f"There is no file at {place.name}. Check the address.")
    if code == "EntryNotFound":
        return OnnxFileNotFoundError(f"There is no file at {place.name}. Check repo, revision and path.")
    answer = Answer(response.status_code, response.headers, str(response.url))
    return refusal(answer, place.repo_id or place.name, place.revision, is_hub=place.repo_id is not None)


@contextmanager
def _opened_by_fsspec(url: str) -> Iterator[ByteWindow]:
    import fsspec

    with _read_by_fsspec(url):
        filesystem, path = fsspec.core.url_to_fs(url)
        size = int(filesystem.size(path))
        stream = filesystem.open(path, "rb", cache_type="none")
    with stream:

        def fetch(start: int, length: int) -> bytes:
            with _read_by_fsspec(url):
                stream.seek(start)
                return bytes(stream.read(length))

        yield ByteWindow(fetch, url, size, _CHUNK)


@contextmanager
def _read_by_fsspec(url: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise OnnxFileNotFoundError(f"There is no file at {url}. Check the address.") from error
    except Exception as error:  # each of its file systems raises its own
        raise UnreadableUrlError(f"{url} cannot be read: {type(error).__name__}: {error}") from error
