"""Files at http(s) addresses, read in pieces: one range request for the head, and one more for what is read next."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from optimum_htp.errors import HFHubIntegrationError, HubServerError, OnnxFileNotFoundError
from optimum_htp.hubs.http import Answer, CutOffError, opened, pieces
from optimum_htp.hubs.patience import Patience, waiting_out
from optimum_htp.hubs.refusals import refusal
from optimum_htp.onnxfile.wire import ByteWindow

__all__ = ["CHUNK", "Place", "Range", "get_range", "http_window"]

_HEAD: Final = 1 << 12  # bytes of the first request: what is before the graph is short
CHUNK: Final = (1 << 16) - _HEAD  # bytes of each further one: the properties behind the graph
_TIMEOUT: Final = 10.0  # seconds, as huggingface_hub's own
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII)


@dataclass(frozen=True)
class Place:
    """What is read, in words: its name, and for files of a Hub their repo and its revision."""

    name: str
    repo_id: str | None = None
    revision: str | None = None


def http_window(place: Place, address: str, headers: Mapping[str, str]) -> ByteWindow:
    """Make the first range request, and a window that makes the others where that one was answered from.

    The token goes to the Hub alone: a redirect to the host that stores the file drops it, and so do we.
    """
    first = get_range(place, address, headers, 0, _HEAD)
    again = headers if urlsplit(first.url)[:2] == urlsplit(address)[:2] else {}

    def fetch(start: int, length: int) -> bytes:
        return get_range(place, first.url, again, start, length).content

    return ByteWindow(fetch, place.name, first.total, CHUNK, head=first.content)


@dataclass(frozen=True)
class Range:
    """Some bytes of a file, where they came from, and how many the file has."""

    content: bytes
    url: str
    total: int


def get_range(place: Place, address: str, headers: Mapping[str, str], start: int, length: int) -> Range:
    """Request some bytes; again where the server is busy.

    Raises:
        HFHubIntegrationError: They cannot be had; the subclass says why.
    """
    patience = Patience()
    wanted = {**headers, "Range": f"bytes={start}-{start + length - 1}", "Accept-Encoding": "identity"}
    return waiting_out(lambda: _answered_range(place, address, wanted, start, length, patience), patience)


def _answered_range(
    place: Place, address: str, wanted: Mapping[str, str], start: int, length: int, patience: Patience
) -> Range:
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
        return Range(bytes(content[:expected]), str(response.url), total)


def _refused(place: Place, response: Any) -> HFHubIntegrationError:
    code = response.headers.get("X-Error-Code")
    if response.status_code == 404 and code is None:  # not a Hub's answer
        return OnnxFileNotFoundError(f"There is no file at {place.name}. Check the address.")
    if code == "EntryNotFound":
        return OnnxFileNotFoundError(f"There is no file at {place.name}. Check repo, revision and path.")
    answer = Answer(response.status_code, response.headers, str(response.url))
    return refusal(answer, place.repo_id or place.name, place.revision, is_hub=place.repo_id is not None)
