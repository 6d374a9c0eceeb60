"""A Xet server for every version of hf_xet: xorbs, shards, reconstructions.

The formats are those of https://huggingface.co/docs/xet. Contents are stored unchanged: only hf_xet unpacks them.
"""

from __future__ import annotations

import json
import re
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

_HEADER, _ENTRY = 48, 48  # bytes of a shard's header, and of each of its entries
_VERIFIED, _WITH_SHA256 = 1 << 31, 1 << 30
_END = b"\xff" * 32
# hf_xet before 1.1.6 uses the singular names.
_ROUTE = re.compile(r"/(?:v1/)?(xorb|shard|reconstruction|data)s?(?:/default(?:-merkledb)?)?/?([0-9a-f]{64})?")


class Segment(NamedTuple):
    """A part of a file: some chunks of a xorb."""

    xorb: str
    size: int
    first: int
    end: int


class CasServer:
    """Stores uploads of hf_xet in memory, and serves them to hf_xet.

    Attributes:
        url: Its address.
        known: Xet's name and the size of each uploaded file, by its SHA-256.
    """

    def __init__(self) -> None:
        self.known: dict[str, tuple[str, int]] = {}
        self._xorbs: dict[str, bytes] = {}
        self._files: dict[str, list[Segment]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"cas": self}))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()

    def add_xorb(self, name: str, body: bytes) -> dict[str, Any]:
        self._xorbs[name] = body
        return {"was_inserted": True}

    def add_shard(self, body: bytes) -> dict[str, Any]:
        at = _HEADER
        while body[at : at + 32] != _END:
            flags, count = struct.unpack_from("<II", body, at + 32)
            name, at = _hex(body[at : at + 32]), at + _ENTRY
            places = [at + index * _ENTRY for index in range(count)]
            self._files[name] = [
                Segment(_hex(body[place : place + 32]), *struct.unpack_from("<III", body, place + 36))
                for place in places
            ]
            at += _ENTRY * (count + (count if flags & _VERIFIED else 0))
            if flags & _WITH_SHA256:
                self.known[_hex(body[at : at + 32])] = name, sum(one.size for one in self._files[name])
                at += _ENTRY
        return {"result": 1}

    def reconstruction(self, name: str) -> dict[str, Any]:
        terms, places = [], {}
        for one in self._files[name]:
            chunks = {"start": one.first, "end": one.end}
            offsets = list(_offsets(self._xorbs[one.xorb]))
            byte_range = {"start": offsets[one.first], "end": offsets[one.end] - 1}
            terms.append({"hash": one.xorb, "unpacked_length": one.size, "range": chunks})
            place = {"range": chunks, "url": f"{self.url}/data/{one.xorb}", "url_range": byte_range}
            places.setdefault(one.xorb, []).append(place)
        return {"offset_into_first_range": 0, "terms": terms, "fetch_info": places}

    def data(self, name: str) -> bytes:
        return self._xorbs[name]


def _offsets(xorb: bytes) -> Iterator[int]:
    """Yield the start of each chunk, and the end of the last one."""
    at = 0
    yield at
    while at < len(xorb) and xorb[at] == 0:  # the version; a footer begins with another byte
        at += 8 + int.from_bytes(xorb[at + 1 : at + 4], "little")
        yield at


def _hex(raw: bytes) -> str:
    """Return a hash in the form of URLs: four numbers of 64 bits."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", raw))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cas: CasServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        match = _ROUTE.fullmatch(self.path)
        if match is None:
            return self._send(404, b"")
        kind, name = match.groups()
        answer = self.cas.add_shard(body) if kind == "shard" else self.cas.add_xorb(name, body)
        return self._send(200, json.dumps(answer).encode())

    def do_GET(self) -> None:
        match = _ROUTE.fullmatch(self.path)
        if match is None:  # a chunk that other uploads might share
            return self._send(404, b"")
        kind, name = match.groups()
        first, last = map(int, self.headers.get("Range", "bytes=0-0").removeprefix("bytes=").split("-"))
        if kind == "reconstruction":  # parts of files are requested in turn, and the first one contains all of these
            return self._send(416 if first else 200, json.dumps(self.cas.reconstruction(name)).encode())
        return self._send(206, self.cas.data(name)[first : last + 1])

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass
