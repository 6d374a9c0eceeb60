"""The loopback Hub itself: its origins, its repos, its log, and the switches of its behavior."""

from __future__ import annotations

import hashlib
import math
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.support.hub.handler import Handler
from tests.support.hub.repos import Files, Repo, sha256
from tests.support.hub.xet import XetStore

Tamper = Callable[[str, str, int, bytes, dict[str, str]], tuple[int, bytes, dict[str, str]]]


@dataclass(frozen=True)
class Request:
    """A request and its response.

    Attributes:
        method: GET, HEAD and so on.
        path: The subject: for a file its path below `/resolve/`, also in requests to storage or cache.
        token: Bearer token.
        status: Of the response.
        origin: `hub`, `cdn` or `mirror`.
        url: The requested path, with its query.
        span: The requested `Range`.
        sent: Bytes of the response's body, as sent.
        is_hop: Whether the response only redirected to the file: `recorded` does not count these.
    """

    method: str
    path: str
    token: str | None
    status: int
    origin: str = "hub"
    url: str = ""
    span: str | None = None
    sent: int = 0
    is_hop: bool = False


@dataclass(frozen=True)
class Signed:
    """A URL of the storage: its file, its expiry, and its only range, if it has one."""

    repo_id: str
    commit: str
    name: str
    expires: float
    span: str | None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may close the connection."""


class LoopbackHub:
    """The server; `url` is the value for HF_ENDPOINT."""

    def __init__(self, port: int = 0) -> None:
        from tests.support.hub.reading import HubHandler
        from tests.support.hub.storage import MirrorHandler, StorageHandler

        self.repos: dict[str, Repo] = {}
        self.renamed: dict[str, str] = {}
        self.requests: list[Request] = []
        self.tokens: dict[str, set[str]] = {}
        """Tokens, and the private or gated repos that each may see."""
        self.writers: dict[str, set[str]] = {}
        """Tokens that may write, and the users and organizations in whose name each may."""
        self.proposers: set[str] = set()
        """Tokens that may open pull requests in repos of others."""
        self.stored: dict[str, bytes] = {}
        """The large files that were uploaded, by their sha256."""
        self.collections: dict[str, list[tuple[str, str]]] = {}
        """Types and ids of the items of each collection, by its slug."""
        self.page = 1000
        """How many models or files a list has on a page."""
        self.latency = 0.0
        """Seconds that every answer takes."""
        self.status: int | None = None
        """An HTTP status that every request is answered with instead."""
        self.wait = 7
        """Seconds that answers of 429 ask to wait for."""
        self.quota: tuple[int, float] | None = None
        """How many requests the Hub answers in how many seconds; further ones are answered with 429."""
        self.retry_after = False
        """Whether 429 has `Retry-After` too."""
        self.serve_card = True
        """Whether repo info has the model card's data, as the Hub's has."""
        self.serve_ranges = True
        self.bind_ranges = True
        """Whether an address that was asked for with `Range` is for that range only."""
        self.address_lives = 3600.0
        """Seconds after which an address of the storage expires."""
        self.cut_bodies = False
        """Whether the connection is closed in the middle of every file."""
        self.garbled = False
        """Whether repo info is answered with something that is not JSON, as a proxy may."""
        self.stored_elsewhere: dict[str, str] = {}
        """Repos whose files another server stores, to which requests are redirected."""
        self.before_answer: Callable[[str, str], None] = lambda method, path: None
        """Called with method and path of every request before it is answered."""
        self.tamper: Tamper | None = None
        """Makes another answer (status, body, headers) of each, given method and path too."""
        self.drip = 0.0
        """Seconds that each byte of a body takes."""
        self.xet: XetStore | None = None
        """Where hf_xet reads and writes; None where files only look as if they were stored with Xet."""
        self._lock = threading.Lock()
        self._signed: dict[str, Signed] = {}
        self._window = (0.0, 0)
        self._servers = {
            handler.origin: _Server(("127.0.0.1", at), type(handler.__name__, (handler,), {"hub": self}))
            for handler, at in ((HubHandler, port), (StorageHandler, 0), (MirrorHandler, 0))
        }

    @property
    def url(self) -> str:
        return self._address("hub", "127.0.0.1")

    @property
    def cdn(self) -> str:
        return self._address("cdn", "localhost")

    @property
    def mirror(self) -> str:
        return self._address("mirror", "127.0.0.1")

    def _address(self, origin: str, host: str) -> str:
        return f"http://{host}:{self._servers[origin].server_address[1]}"

    def add(self, repo_id: str, files: Files | Path | None = None, **properties: Any) -> Repo:
        repo = self.repos[repo_id] = Repo(repo_id, **properties)
        if files is not None:
            repo.commit(files)
        return repo

    @contextmanager
    def recorded(self) -> Iterator[list[Request]]:
        """Collect the requests during the block, without redirects to the place of a file."""
        start = len(self.requests)
        seen: list[Request] = []
        yield seen
        seen.extend(request for request in self.requests[start:] if not request.is_hop)

    @contextmanager
    def given_back(self) -> Iterator[LoopbackHub]:
        """Give this Hub to a test that may change it; its behavior and its repos are restored afterwards.

        Added repos stay: other tests may share them.
        """
        own = {name: copy(value) for name, value in vars(self).items() if not name.startswith("_")}
        del own["requests"], own["repos"]
        repos = {
            name: (repo, {key: copy(value) for key, value in vars(repo).items()}) for name, repo in self.repos.items()
        }
        try:
            yield self
        finally:
            vars(self).update(own)
            for name, (repo, state) in repos.items():
                self.repos[name] = repo
                vars(repo).update(state)

    def answer(self, handler: Handler) -> None:
        """Respond to a request; subclasses may respond differently."""
        handler.answer()

    def xet_hash(self, body: bytes) -> str:
        """Return Xet's hash of a content: 64 hexadecimal digits like its SHA-256, but different."""
        if self.xet is not None:
            return self.xet.put(body)
        return hashlib.sha256(b"xet" + sha256(body).encode()).hexdigest()

    def signed(self, repo_id: str, commit: str, name: str, span: str | None) -> str:
        """Return a URL of the storage for a file, requested with this `Range`."""
        signature, expires = secrets.token_hex(20), time.time() + self.address_lives
        self._signed[signature] = Signed(repo_id, commit, name, expires, span if self.bind_ranges else None)
        key = self.xet_hash(self.repos[repo_id].commits[commit][name])
        file = quote(name.rpartition("/")[2], safe="")
        return (
            f"{self.cdn}/xet-bridge-us/65c0e0a24913fc50b7ba14d2/{key}?response-content-disposition=inline%3B+filename"
            f"%3D%22{file}%22&Expires={int(expires)}&Policy=eyJT&Signature={signature}&Key-Pair-Id=K2L8F4GPSG1IFC"
        )

    def expire_addresses(self) -> None:
        """Invalidate all URLs of the storage."""
        self._signed.clear()

    def signature(self, text: str) -> Signed | None:
        return self._signed.get(text)

    def counted(self) -> int | None:
        """Count a request; return the seconds to wait after too many."""
        if self.quota is None:
            return None
        most, seconds = self.quota
        with self._lock:
            began, count = self._window
            if time.monotonic() >= began + seconds:
                began, count = time.monotonic(), 0
            self._window = (began, count + 1)
        return None if count < most else math.ceil(began + seconds - time.monotonic())

    def log(self, request: Request) -> None:
        with self._lock:
            self.requests.append(request)

    def known_tokens(self) -> set[str]:
        return {*self.tokens, *self.writers, *self.proposers}

    def may_read(self, token: str | None, repo: Repo) -> bool:
        return token is not None and (
            repo.repo_id in self.tokens.get(token, ()) or repo.repo_id.partition("/")[0] in self.writers.get(token, ())
        )

    def __enter__(self) -> LoopbackHub:
        for server in self._servers.values():
            threading.Thread(target=server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        for server in self._servers.values():
            server.shutdown()
            server.server_close()


def standard_headers(bucket: str, remaining: int = 2998, seconds: int = 172) -> Mapping[str, str]:
    """Return the headers of every response of the Hub."""
    return {
        "X-Powered-By": "huggingface-moon",
        "X-Request-Id": f"Root=1-{secrets.token_hex(4)}-{secrets.token_hex(12)}",
        "RateLimit": f'"{bucket}";r={remaining};t={seconds}',
        "RateLimit-Policy": f'"fixed window";"{bucket}";q=3000;w=300',
        "Vary": "Origin, Accept",
        "Via": "1.1 loopback (CloudFront)",
        "X-Cache": "Miss from cloudfront",
    }
