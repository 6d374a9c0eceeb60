"""Shared by all origins of the loopback Hub: receiving a request, and sending and logging its response."""

from __future__ import annotations

import gzip
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from tests.support.hub.server import LoopbackHub

_PACKED_FROM = 256  # bytes
_PACKED_TYPES = ("application/json", "text/plain", "text/html")
_CHUNK = 4096


class Handler(BaseHTTPRequestHandler):
    """A request to one of the origins."""

    hub: LoopbackHub
    origin = ""
    packs = False
    """Whether answers are packed for those that accept it."""
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a body after an acknowledgement of its headers arrives 40 ms late

    def _received(self) -> None:
        self.body = self._read_body()
        self.is_hop = False
        time.sleep(self.hub.latency)
        self.hub.before_answer(self.command, self.about)
        self.hub.answer(self)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _received  # noqa: N815

    def answer(self) -> None:
        raise NotImplementedError

    @property
    def about(self) -> str:
        """The requested file or page; `path` may be that of a cache or storage."""
        return self.path

    @property
    def route(self) -> str:
        return unquote(urlsplit(self.path).path)

    @property
    def token(self) -> str | None:
        header: str = self.headers.get("Authorization", "")
        return header.removeprefix("Bearer ") or None

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Send a response: a part of it for a range, or compressed if the request accepts it."""
        from tests.support.hub.server import Request

        packs = (
            self.packs
            and "gzip" in self.headers.get("Accept-Encoding", "")
            and headers.get("Content-Type", "").partition(";")[0] in _PACKED_TYPES
            and len(body) > _PACKED_FROM
        )
        span = self.headers.get("Range")
        if status == 200 and span and self.hub.serve_ranges and not packs:
            status, body, headers = _ranged(span, body, headers)
        if self.hub.tamper is not None:
            status, body, headers = self.hub.tamper(self.command, self.about, status, body, dict(headers))
        chunked = packs and not {"Content-Encoding", "Content-Length"} & {*headers}
        if chunked:
            body = gzip.compress(body)
            headers = {**headers, "Content-Encoding": "gzip", "Transfer-Encoding": "chunked"}
            if "ETag" in headers and not headers["ETag"].startswith("W/"):
                headers["ETag"] = f"W/{headers['ETag']}"
        sent = 0 if self.command == "HEAD" else len(body)
        self.hub.log(
            Request(
                self.command, self.about, self.token, status, self.origin, self.path, span, sent, is_hop=self.is_hop
            )
        )
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if not chunked and "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self._write(_chunked(body) if chunked else body)

    def _write(self, body: bytes) -> None:
        if self.hub.drip and not self.is_hop:
            for place in range(len(body)):
                time.sleep(self.hub.drip)
                self.wfile.write(body[place : place + 1])
            return
        self.close_connection |= self.hub.cut_bodies
        self.wfile.write(body[: len(body) // 2] if self.hub.cut_bodies else body)


def _ranged(span: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes, Mapping[str, str]]:
    first, _, last = span.removeprefix("bytes=").partition("-")
    start = int(first) if first else max(0, len(body) - int(last))
    if start >= len(body):
        return 416, b"<Error><Code>InvalidRange</Code></Error>", {"Content-Range": f"bytes */{len(body)}"}
    stop = min(int(last) + 1, len(body)) if first and last else len(body)
    return 206, body[start:stop], {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{len(body)}"}


def _chunked(body: bytes) -> bytes:
    pieces = [body[at : at + _CHUNK] for at in range(0, len(body), _CHUNK)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])
