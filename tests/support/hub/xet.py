"""Xet with hf_xet itself: its server stores contents, does not respond, or fails."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.hub.cas import CasServer
from tests.support.hub.repos import sha256

_TOKEN = ("xet_token", 9999999999)


class XetStore:
    """The store of hf_xet: a Xet server that stores everything in memory.

    Attributes:
        url: The address for hf_xet; None for a Hub without tokens for it.
    """

    def __init__(self) -> None:
        self._server = CasServer()
        self._hashes: dict[str, str] = {}
        self.url: str | None = self._server.url

    def put(self, body: bytes) -> str:
        """Store a content; return Xet's hash of it."""
        import hf_xet

        key = sha256(body)
        if key not in self._hashes:
            with tempfile.NamedTemporaryFile() as file:
                file.write(body)
                file.flush()
                arguments = ([file.name], self._server.url, _TOKEN, lambda: _TOKEN, None, None)
                self._hashes[key] = hf_xet.upload_files(*arguments)[0].hash
        return self._hashes[key]

    def find(self, oid: str) -> bytes | None:
        """Return an uploaded content by its SHA-256: hf_xet downloads it."""
        import hf_xet

        if oid not in self._server.known:
            return None
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder, "content")
            wanted = hf_xet.PyXetDownloadInfo(str(place), *self._server.known[oid])
            hf_xet.download_files([wanted], self._server.url, _TOKEN, lambda: _TOKEN, None)
            body = place.read_bytes()
        return body if sha256(body) == oid else None

    def close(self) -> None:
        """Stop the server."""
        self._server.close()


@contextmanager
def xet_server(status: int | None, asked: Callable[[], object] = lambda: None) -> Iterator[str]:
    """Serve an address at which Xet answers every request with this status, or accepts it without a response (None).

    `asked` is called at each request.
    """
    ended = threading.Event()

    class Answering(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _fail(self) -> None:
            asked()
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if status is None:
                ended.wait()
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD = do_POST = do_PUT = _fail  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
