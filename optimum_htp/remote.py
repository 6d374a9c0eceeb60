"""Reading what an ONNX file says about itself where it lies, without downloading it.

`hf://[org/]repo[@revision]/path/model.onnx` and http(s) URLs are read by HTTP range requests: one for the head of
the file, one for its tail, where a writer put the metadata behind the graph, as they do; more where not. Any
other URL is read through fsspec.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from optimum_htp.errors import (
    HFHubIntegrationError,
    HubUnreachableError,
    InvalidModelReferenceError,
    ModelNotFoundError,
    OnnxFileNotFoundError,
)
from optimum_htp.hubs.base import HubAccess
from optimum_htp.hubs.refusals import translated_errors
from optimum_htp.onnxfile.reader import ModelHeader, header_of
from optimum_htp.onnxfile.wire import ByteWindow

__all__ = ["is_url", "opened_url", "read_hub_header", "read_remote_header"]

_CHUNK: Final = 1 << 16
_TIMEOUT: Final = 10.0  # seconds, as huggingface_hub's own
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
    """Return the same of a file of a repo.

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
                window = _http_window(url, url, {})
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


def _hub_window(name: str, repo_id: str, revision: str | None, path: str, access: HubAccess) -> ByteWindow:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    with translated_errors(repo_id, revision):
        address = hf_hub_url(repo_id, path, revision=revision)
        return _http_window(name, address, build_hf_headers(token=access.token))


def _http_window(name: str, address: str, headers: Mapping[str, str]) -> ByteWindow:
    """Make the first range request, and a window that makes the others where that one was answered from.

    The token goes to the Hub alone: a redirect to the host that stores the file drops it, and so do we.
    """
    body, response = _get_range(name, address, headers, 0, _CHUNK)
    _, _, total = response.headers.get("Content-Range", "").rpartition("/")
    if not (total.isascii() and total.isdigit() and len(total) < 20):
        raise HubUnreachableError(f"{name}: the server does not say how large the file is. Download it first.")
    final = str(response.url)
    again = headers if urlsplit(final)[:2] == urlsplit(address)[:2] else {}

    def fetch(start: int, length: int) -> bytes:
        if start + length <= len(body):
            return body[start : start + length]
        return _get_range(name, final, again, start, length)[0]

    return ByteWindow(fetch, name, int(total), _CHUNK)


def _get_range(name: str, address: str, headers: Mapping[str, str], start: int, length: int) -> tuple[bytes, Any]:
    """Request a range of bytes; return it and the response. A server that sends the whole file is hung up on."""
    from huggingface_hub.errors import EntryNotFoundError
    from huggingface_hub.utils import hf_raise_for_status

    wanted = {**headers, "Range": f"bytes={start}-{start + length - 1}", "Accept-Encoding": "identity"}
    with _streamed(address, wanted) as response:
        if response.status_code == 404 and "X-Error-Code" not in response.headers:  # not a Hub's answer
            raise OnnxFileNotFoundError(f"There is no file at {name}. Check the address.")
        try:
            hf_raise_for_status(response)
        except EntryNotFoundError as error:
            raise OnnxFileNotFoundError(f"There is no file at {name}. Check repo, revision and path.") from error
        if response.status_code != 206:
            raise HubUnreachableError(f"{name}: the server does not answer range requests. Download the file first.")
        if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise HubUnreachableError(f"{name}: the server sent another range than {start}-. Download the file first.")
        return _first_bytes(response, length), response


def _first_bytes(response: Any, length: int) -> bytes:
    """Return the beginning of a response's body, however long the server makes it."""
    if hasattr(response, "raw"):
        return bytes(response.raw.read(length))
    content = bytearray()
    for piece in response.iter_bytes():
        content += piece
        if len(content) >= length:
            break
    return bytes(content[:length])


@contextmanager
def _streamed(address: str, headers: Mapping[str, str]) -> Iterator[Any]:
    """Send a GET request whose body waits to be read, with huggingface_hub's requests or, since its 1.0, httpx."""
    from huggingface_hub.utils import get_session

    session: Any = get_session()
    if callable(getattr(session, "stream", None)):
        with session.stream("GET", address, headers=headers, timeout=_TIMEOUT, follow_redirects=True) as response:
            yield response
    else:
        with session.get(address, headers=headers, timeout=_TIMEOUT, stream=True) as response:
            yield response


@contextmanager
def _opened_by_fsspec(url: str) -> Iterator[ByteWindow]:
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(url)
        stream = filesystem.open(path, "rb", cache_type="none")
    except FileNotFoundError as error:
        raise OnnxFileNotFoundError(f"There is no file at {url}. Check the address.") from error
    except Exception as error:
        raise HFHubIntegrationError(f"{url} cannot be opened: {type(error).__name__}: {error}") from error
    with stream:

        def fetch(start: int, length: int) -> bytes:
            stream.seek(start)
            return bytes(stream.read(length))

        yield ByteWindow(fetch, url, int(filesystem.size(path)), _CHUNK)
