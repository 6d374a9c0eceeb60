"""A Hugging Face Hub on the loopback interface: real HTTP, real git-like repos, a log of every request.

It answers the requests that huggingface_hub makes to read models: repo info, file trees, commit history, and
files with HEAD, GET and ranges; private and gated repos, branches, tags and pull requests. Answers follow the
Hub's own (status codes, `X-Error-Code`, `X-Repo-Commit`, `ETag`). What it answers to writers is in `hub_uploads.py`.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from tests.support.hub_uploads import Uploads

Files = Mapping[str, bytes]
_LFS = (".safetensors", ".bin", ".onnx", ".model", ".h5")  # as in the .gitattributes of most repos
Tamper = Callable[[str, str, int, bytes, dict[str, str]], tuple[int, bytes, dict[str, str]]]


@dataclass
class Repo:
    """A model repo: commits that never change, and refs that name them."""

    repo_id: str
    private: bool = False
    gated: bool = False
    disabled: bool = False
    pipeline_tag: str | None = None
    library_name: str | None = None
    card: dict[str, Any] | None = None
    downloads: int = 1234
    likes: int = 56
    commits: dict[str, Files] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Files | Path, ref: str = "main") -> str:
        """Add a commit with exactly these files and move a ref to it; return its hash."""
        if isinstance(files, Path):
            files = {p.relative_to(files).as_posix(): p.read_bytes() for p in files.rglob("*") if p.is_file()}
        digest = hashlib.sha1(f"{self.repo_id}{len(self.commits)}".encode())
        for name in sorted(files):
            digest.update(name.encode() + b"\0" + hashlib.sha1(files[name]).digest())
        sha = digest.hexdigest()
        self.commits[sha] = dict(files)
        self.refs[ref] = sha
        return sha

    def split_revision(self, path: str) -> tuple[str | None, str]:
        """Split `<revision>/<path>` into a commit and the path; a revision such as `refs/pr/1` has slashes too."""
        for known in (*self.refs, *self.commits):
            if path == known or path.startswith(known + "/"):
                return self.refs.get(known, known), path[len(known) + 1 :]
        return None, ""


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    token: str | None
    status: int


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may hang up."""


class LoopbackHub:
    """The server; `url` is what HF_ENDPOINT has to be."""

    def __init__(self, port: int = 0) -> None:
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
        """How many models a list has on a page."""
        self.latency = 0.0
        """Seconds that every answer takes."""
        self.status: int | None = None
        """An HTTP status that every request is answered with instead."""
        self.serve_card = True
        """Whether repo info has the model card's data, as the Hub's has."""
        self.serve_ranges = True
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
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def add(self, repo_id: str, files: Files | Path | None = None, **properties: Any) -> Repo:
        repo = self.repos[repo_id] = Repo(repo_id, **properties)
        if files is not None:
            repo.commit(files)
        return repo

    @contextmanager
    def recorded(self) -> Iterator[list[Request]]:
        """Collect the requests that arrive while the block runs."""
        start = len(self.requests)
        seen: list[Request] = []
        yield seen
        seen.extend(self.requests[start:])

    @contextmanager
    def given_back(self) -> Iterator[LoopbackHub]:
        """Give this Hub to somebody who may change it; its behaviour and its repos are as before afterwards.

        Repos that were added stay: other tests may share them.
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

    def __enter__(self) -> LoopbackHub:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(hub) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - `self` is the handler in there
        class Handler(_Handler):
            pass

        Handler.hub = hub
        return Handler


class _Handler(Uploads, BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a body that waits for the acknowledgement of its headers comes 40 ms late

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        time.sleep(self.hub.latency)
        self.hub.before_answer(self.command, self.path)
        url = urlsplit(self.path)
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        if self.hub.status is not None:
            return self._error(self.hub.status, None, "The server is told to fail")
        if parts == ["api", "whoami-v2"]:
            names = sorted(self.hub.writers.get(self._token() or "", ()))
            return self._json({"type": "user", "name": names[0]}) if names else self._error(401, None, "Who are you?")
        if parts[:2] == ["api", "collections"]:
            return self._collection("/".join(parts[2:]))
        if parts == ["api", "models"]:
            return self._models(parse_qs(url.query))
        if parts[:2] == ["api", "models"]:
            return self._api(parts[2:], parse_qs(url.query))
        if "resolve" in parts:
            cut = parts.index("resolve")
            return self._file("/".join(parts[:cut]), parts[cut + 1 :])
        return self._error(404, "EntryNotFound", "No such page")

    def _collection(self, slug: str) -> None:
        items = self.hub.collections.get(slug)
        if items is None:
            return self._error(404, None, "Collection not found")
        content = [{"_id": f"{at:024}", "id": id, "type": type, "position": at} for at, (type, id) in enumerate(items)]
        about = {"title": slug, "owner": {}, "lastUpdated": "2026-01-01T00:00:00.000Z", "theme": "blue"}
        self._json({"slug": slug, "items": content, "private": False, "upvotes": 0, "position": 0, **about})

    def _models(self, query: dict[str, list[str]]) -> None:
        """List models, a page at a time; the next one's address is in a header."""
        author, tags = query.get("author", [None])[0], set(query.get("filter", []))
        found = [
            repo
            for name, repo in sorted(self.hub.repos.items())
            if author in (None, name.partition("/")[0])
            and tags <= {repo.library_name, repo.pipeline_tag}
            and (not repo.private or self._allowed(repo))
        ]
        if query.get("sort") == ["downloads"]:
            found.sort(key=lambda repo: -repo.downloads)
        found = found[: int(query.get("limit", ["1000"])[0])]
        start = int(query.get("cursor", ["0"])[0])
        page, after = found[start : start + self.hub.page], start + self.hub.page
        query = {**query, "cursor": [str(after)]}
        following = f'<{self.hub.url}/api/models?{urlencode(query, doseq=True)}>; rel="next"'
        content = [_info(repo, repo.refs["main"], with_card=False, with_blobs=False) for repo in page]
        body = json.dumps(content).encode()
        self._send(
            200, body, {"Content-Type": "application/json", **({"Link": following} if after < len(found) else {})}
        )

    def _api(self, parts: list[str], query: dict[str, list[str]]) -> None:
        known = {"revision", "tree", "commits", "refs"}
        cut = next((i for i, part in enumerate(parts) if part in known), len(parts))
        repo = self._repo("/".join(parts[:cut]), "/".join(["api/models", "{}", *parts[cut:]]))
        if repo is None:
            return
        kind, rest = (parts[cut], "/".join(parts[cut + 1 :])) if cut < len(parts) else ("revision", "main")
        sha, below = repo.split_revision(rest or "main")
        if sha is None:
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {rest}")
        if kind == "revision":
            with_blobs = query.get("blobs") in (["true"], ["True"], ["1"])
            return self._json(_info(repo, sha, with_card=self.hub.serve_card, with_blobs=with_blobs))
        if kind == "tree":
            return self._tree(
                repo.commits[sha], below, recursive=query.get("recursive") in (["True"], ["true"], ["1"])
            )
        if kind == "commits":
            stamp = {"title": "commit", "message": "", "authors": [], "date": "2026-01-01T00:00:00.000Z"}
            page = int(query.get("p", ["0"])[0])
            commits = [{"id": one, **stamp} for one in reversed(repo.commits)]
            return self._json(commits if page == 0 else [])
        self._error(404, "EntryNotFound", "No such page")

    def _tree(self, files: Files, below: str, *, recursive: bool) -> None:
        prefix = below + "/" if below else ""
        inside = {name: body for name, body in files.items() if name.startswith(prefix)}
        if not inside:
            return self._error(404, "EntryNotFound", f"{below} does not exist")
        entries: dict[str, Any] = {}
        for name, body in inside.items():
            folder, slash, _ = name.removeprefix(prefix).partition("/")
            if slash and not recursive:
                entries[prefix + folder] = {"type": "directory", "path": prefix + folder, "oid": "0" * 40, "size": 0}
            else:
                entries[name] = _tree_entry(name, body)
        self._json(list(entries.values()))

    def _file(self, repo_id: str, rest: list[str]) -> None:
        repo = self._repo(repo_id, f"{{}}/resolve/{'/'.join(rest)}")
        if repo is None:
            return
        sha, name = repo.split_revision("/".join(rest))
        if sha is None:
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {rest[0]}")
        commit = {"X-Repo-Commit": sha}
        if repo.gated and not self._allowed(repo):
            return self._error(403 if self._token() else 401, "GatedRepo", "Access to model is restricted", commit)
        body = repo.commits[sha].get(name)
        if body is None:
            return self._error(404, "EntryNotFound", "Entry not found", commit)
        if repo_id in self.hub.stored_elsewhere:
            return self._send(302, b"", {**commit, "Location": self.hub.stored_elsewhere[repo_id] + self.path})
        self._send(200, body, {**commit, "ETag": f'"{_etag(body)}"', "Accept-Ranges": "bytes"})

    def _repo(self, repo_id: str, path: str) -> Repo | None:
        if repo_id in self.hub.renamed:
            target = self.hub.renamed[repo_id]
            self._send(307, b"", {"Location": f"/{path.format(target)}"})
            return None
        repo = self.hub.repos.get(repo_id)
        if repo is None or (repo.private and not self._allowed(repo)):
            self._error(404 if self._token() else 401, "RepoNotFound", "Repository not found")
            return None
        if repo.disabled:
            self._error(403, None, "Access to this resource is disabled.")
            return None
        return repo

    def _token(self) -> str | None:
        header = self.headers.get("Authorization", "")
        return header.removeprefix("Bearer ") or None

    def _allowed(self, repo: Repo) -> bool:
        return repo.repo_id in self.hub.tokens.get(self._token() or "", ())

    def _json(self, content: Any) -> None:
        body = b"<html>Please log in</html>" if self.hub.garbled else json.dumps(content).encode()
        self._send(200, body, {"Content-Type": "application/json"})

    def _error(self, status: int, code: str | None, message: str, headers: Mapping[str, str] | None = None) -> None:
        extra = {"X-Error-Message": message, **(headers or {})}
        if code is not None:
            extra["X-Error-Code"] = code
        if status == 429:
            extra["Retry-After"] = "7"
        self._send(status, json.dumps({"error": message}).encode(), extra)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        span = self.headers.get("Range", "")
        if status == 200 and span.startswith("bytes=") and self.hub.serve_ranges:
            first, _, last = span.removeprefix("bytes=").partition("-")
            start = int(first) if first else len(body) - int(last)
            stop = min(int(last) + 1, len(body)) if first and last else len(body)
            headers = {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{len(body)}"}
            body, status = body[start:stop], 206
        if self.hub.tamper is not None:
            status, body, headers = self.hub.tamper(self.command, self.path, status, body, dict(headers))
        with self.hub._lock:
            self.hub.requests.append(Request(self.command, self.path, self._token(), status))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and self.hub.drip:
            for place in range(len(body)):
                time.sleep(self.hub.drip)
                self.wfile.write(body[place : place + 1])
        elif self.command != "HEAD":
            self.close_connection |= self.hub.cut_bodies
            self.wfile.write(body[: len(body) // 2] if self.hub.cut_bodies else body)


_LARGE = (".safetensors", ".bin", ".h5", ".onnx", ".msgpack")  # what the Hub keeps in Git LFS


def _sibling(name: str, body: bytes, *, with_blobs: bool) -> dict[str, Any]:
    if not with_blobs:
        return {"rfilename": name}
    large = {"lfs": {"sha256": _sha256(body), "size": len(body), "pointerSize": 134}}
    return {
        "rfilename": name,
        "size": len(body),
        "blobId": _etag(body),
        **(large if name.endswith(_LARGE) else {}),
    }


def _info(repo: Repo, sha: str, *, with_card: bool, with_blobs: bool) -> dict[str, Any]:
    info: dict[str, Any] = {
        "_id": hashlib.md5(repo.repo_id.encode()).hexdigest()[:24],
        "id": repo.repo_id,
        "modelId": repo.repo_id,
        "sha": sha,
        "author": repo.repo_id.partition("/")[0] if "/" in repo.repo_id else None,
        "lastModified": "2026-01-01T00:00:00.000Z",
        "createdAt": "2026-01-01T00:00:00.000Z",
        "private": repo.private,
        "gated": "manual" if repo.gated else False,
        "disabled": False,
        "downloads": repo.downloads,
        "likes": repo.likes,
        "tags": [tag for tag in (repo.library_name, repo.pipeline_tag) if tag],
        "siblings": [
            _sibling(name, repo.commits[sha][name], with_blobs=with_blobs) for name in sorted(repo.commits[sha])
        ],
    }
    for key in ("pipeline_tag", "library_name"):
        if getattr(repo, key):
            info[key] = getattr(repo, key)
    if with_card and repo.card is not None:
        info["cardData"] = repo.card
    return info


@lru_cache(maxsize=64)  # requests are many, and a model's weights are large
def _etag(body: bytes) -> str:
    """Return git's name of a content."""
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


@lru_cache(maxsize=64)
def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _tree_entry(name: str, body: bytes) -> dict[str, Any]:
    """Return what a tree says of a file. Of what is stored with LFS, git's name is that of the pointer."""
    entry = {"type": "file", "path": name, "size": len(body), "oid": _etag(body)}
    if not name.endswith(_LFS):
        return entry
    sha256 = _sha256(body)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(body)}\n".encode()
    return {
        **entry,
        "oid": _etag(pointer),
        "lfs": {"oid": sha256, "size": len(body), "pointerSize": len(pointer)},
    }
