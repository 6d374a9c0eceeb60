"""Reads the metadata of a remote ONNX file, without a download.

`hf://[org/]repo[@revision]/path/model.onnx`, the same with the name of another Hub, and http(s) URLs are read with
range requests: one for the start of the file, and one for its end, where writers put the metadata after the graph.
Files of other writers may need more. Together they are 64 KiB: archives, which come last, are not downloaded. Other
URLs are read with fsspec.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from optimum_htp import plugins
from optimum_htp.errors import (
    InvalidModelReferenceError,
    ModelNotFoundError,
    OnnxFileNotFoundError,
    RangesNotServedError,
    UnknownHubError,
    UnreadableUrlError,
)
from optimum_htp.hubs.base import Hub, HubAccess
from optimum_htp.hubs.huggingface.ranges import ONNX_HEAD, file_at, onnx_window, open_address
from optimum_htp.masking import get_logger
from optimum_htp.onnxfile.reader import ModelHeader, header_of, opened
from optimum_htp.onnxfile.wire import ByteWindow
from optimum_htp.origin.references import parse_reference
from optimum_htp.resolve.embedded import EmbeddedFiles

__all__ = [
    "RemoteEmbeddedFiles",
    "hub_files",
    "is_url",
    "opened_or_downloaded",
    "opened_url",
    "read_hub_header",
    "read_remote_header",
]

logger = get_logger(__name__)

_SHOWN: Final = 10  # Names in a message.
_CHUNK: Final = 1 << 16
_HTTP: Final = ("http://", "https://")
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+._-]+)://", re.IGNORECASE)
# A revision may contain slashes only in a reference such as refs/pr/1, or escaped as %2F.
_HUB_URLS: Final = tuple(
    re.compile(
        rf"[a-z0-9_-]+://(?:models/)?(?P<repo>{repo})(?:@(?P<revision>refs/[^/]+/[^/]+|[^/]+))?/(?P<path>{path})"
    )
    for repo, path in (("[^/@]+/[^/@]+", ".+"), ("[^/@]+", r".+\.onnx"))  # gpt2 and others have no organization.
)


def is_url(text: str) -> bool:
    """Whether a text is a URL, not a path."""
    return _SCHEME.match(text) is not None


def read_remote_header(url: str, access: HubAccess | None = None) -> ModelHeader:
    """Return everything except the graph of a remote ONNX file. The model is not downloaded.

    Raises:
        InvalidModelReferenceError: The URL of a Hub contains no file name.
        OnnxFileNotFoundError: The file does not exist.
        InvalidOnnxFileError: The file is not an ONNX model.
        HFHubIntegrationError: It cannot be read; the subclass gives the reason.
    """
    with opened_url(url, access or HubAccess()) as window:
        return header_of(window)


def read_hub_header(hub: Hub, repo_id: str, commit: str, path: str, access: HubAccess) -> ModelHeader:
    """Return everything except the graph of an ONNX file in a repo; see `opened_or_downloaded`."""
    with opened_or_downloaded(hub, repo_id, commit, path, access) as window:
        return header_of(window)


@contextmanager
def opened_or_downloaded(hub: Hub, repo_id: str, commit: str, path: str, access: HubAccess) -> Iterator[ByteWindow]:
    """Open a file of a commit for reading in pieces. It is downloaded only if ranges are not supported."""
    with ExitStack() as stack:
        try:
            window = stack.enter_context(hub.opened(repo_id, commit, path, access))
        except RangesNotServedError as error:
            logger.info("%s It is downloaded.", error)
            folder = hub.snapshot(repo_id, commit, [path], access)
            window = stack.enter_context(opened(folder / path, chunk=_CHUNK))
        yield window


def hub_files(url: str) -> tuple[tuple[str, str | None, str], ...]:
    """Return the possible meanings of the URL of a file on a Hub: repo, revision and file.

    There are two if the repo may have an organization or none, the more probable one first; and none for other URLs.
    An http(s) address belongs to the Hugging Face Hub.
    """
    if url.startswith(_HTTP):
        found = file_at(url)
        return () if found is None else (found,)
    readings = (pattern.fullmatch(url) for pattern in _HUB_URLS)
    return tuple(
        (match["repo"], match["revision"] and match["revision"].replace("%2F", "/"), match["path"])
        for match in readings
        if match is not None
    )


@contextmanager
def opened_url(url: str, access: HubAccess) -> Iterator[ByteWindow]:
    """Open a file at a URL for reading in pieces."""
    if url.startswith(_HTTP):
        try:
            window = onnx_window(open_address(url, access, ONNX_HEAD))
        except UnicodeError as error:
            raise InvalidModelReferenceError(f"{url} is not an address: {error}") from error
        yield window
    elif (hub := _hub_of(url)) is not None:
        with _opened_hub_file(hub, url, access) as window:
            yield window
    else:
        with _opened_by_fsspec(url) as window:
            yield window


def _hub_of(url: str) -> Hub | None:
    """Return the Hub that a URL names; None for a protocol of fsspec."""
    match = _SCHEME.match(url)
    assert match is not None, url
    try:
        return plugins.hub_of_prefix(match[1])
    except UnknownHubError:
        from fsspec.registry import known_implementations, registry

        if match[1] in known_implementations or match[1] in registry:
            return None
        raise


@contextmanager
def _opened_hub_file(hub: Hub, url: str, access: HubAccess) -> Iterator[ByteWindow]:
    first, *others = hub_files(url) or (_only_file(hub, url, access),)
    with ExitStack() as stack:
        try:
            window = stack.enter_context(hub.opened(*first, access))
        except ModelNotFoundError as error:
            if not others:
                raise
            try:
                window = stack.enter_context(hub.opened(*others[0], access))
            except ModelNotFoundError:
                raise error from None
        yield window


def _only_file(hub: Hub, url: str, access: HubAccess) -> tuple[str, str, str]:
    """Return repo, commit and name of the only ONNX file of a repo; an error if it has several or none."""
    asked = parse_reference(url)
    info = hub.info(asked.repo_id, asked.revision, access)
    names = [name for name in info.files if name.endswith(".onnx")]
    if len(names) != 1:
        prefix = url.partition(":")[0]
        held = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
        raise InvalidModelReferenceError(
            f"{url} contains no file name: write {prefix}://organization/repo[@revision]/path/model.onnx. The repo "
            f"has {held or 'no ONNX file'}."
        )
    return info.repo_id, info.commit, names[0]


@contextmanager
def _opened_by_fsspec(url: str) -> Iterator[ByteWindow]:
    import fsspec

    with _fsspec_errors_translated(url):
        filesystem, path = fsspec.core.url_to_fs(url)
        size = int(filesystem.size(path))
        stream = filesystem.open(path, "rb", cache_type="none")
    with stream:

        def fetch(start: int, length: int) -> bytes:
            with _fsspec_errors_translated(url):
                stream.seek(start)
                return bytes(stream.read(length))

        yield ByteWindow(fetch, url, size, _CHUNK)


@contextmanager
def _fsspec_errors_translated(url: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise OnnxFileNotFoundError(f"There is no file at {url}. Check the address.") from error
    except Exception as error:  # Each of fsspec's file systems raises its own exceptions.
        raise UnreadableUrlError(f"{url} cannot be read: {type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class RemoteEmbeddedFiles(EmbeddedFiles):
    """The embedded files of a model whose ONNX files are in a repo. `file` contains them, relative to the repo."""

    hub: Hub
    repo_id: str
    commit: str
    file: str
    access: HubAccess

    def _opened(self) -> AbstractContextManager[ByteWindow]:
        return opened_or_downloaded(self.hub, self.repo_id, self.commit, self.file, self.access)
