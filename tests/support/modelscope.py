"""ModelScope on the loopback interface: the part of its API for reading models, over real HTTP.

GET /openapi/v1/models/{id}                              facts about a repo
GET /api/v1/models/{id}/commits?Ref=&PageNumber=&PageSize=   history of a branch or tag, newest first
GET /api/v1/models/{id}/repo/files?Revision=&Recursive=  files of a commit, with size and SHA-256
GET /api/v1/models/{id}/repo?Revision=&FilePath=         content of one, also in ranges

Refusals are those of the site: a repo without permission is answered like a missing one, and a missing ref has an
empty history.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.hub import Files, Repo, Request


class LoopbackModelScope:
    """The server; `url` is the value for MODELSCOPE_ENDPOINT."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.tokens: dict[str, set[str]] = {}
        self.status: int | None = None
        """An HTTP status that every request is answered with instead."""
        self.damaged: set[str] = set()
        """Files with another content than listed."""

        class Handler(_Handler):
            hub = self

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def add(self, repo_id: str, files: Files | Path, **properties: Any) -> Repo:
        repo = self.repos[repo_id] = Repo(repo_id, **properties)
        repo.commit(files, "master")
        return repo

    @contextmanager
    def serving(self) -> Iterator[LoopbackModelScope]:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackModelScope
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if self.hub.status is not None:
            return self._refuse(self.hub.status, "set to fail")
        parts = url.path.strip("/").split("/")
        owner, name, *rest = parts[3:] if len(parts) >= 5 and parts[2] == "models" else ["", "", ""]
        repo = self.hub.repos.get(f"{owner}/{name}")
        if repo is None or (repo.private and repo.repo_id not in self.hub.tokens.get(self._token() or "", ())):
            return self._refuse(404, "模型不存在")
        if parts[0] == "openapi":
            return self._json(
                {
                    "id": repo.repo_id,
                    "license": "apache-2.0",
                    "tags": ["onnx"],
                    "tasks": [repo.pipeline_tag] if repo.pipeline_tag else [],
                    "private": repo.private,
                    "gated": False,
                    "downloads": repo.downloads,
                    "likes": repo.likes,
                },
                "data",
            )
        if rest == ["commits"]:
            return self._commits(repo, query)
        commit = repo.refs.get(query.get("Revision", "master"), query.get("Revision", "master"))
        files = repo.commits.get(commit)
        if files is None:
            return self._refuse(404, "no such revision")
        if rest == ["repo", "files"]:
            return self._json({"Files": list(_entries(files)), "LatestCommitter": {"Id": "", "ShortId": commit[:8]}})
        if rest == ["repo"] and query.get("FilePath") in files:
            body = files[query["FilePath"]]
            return self._send(200, bytes(len(body)) if query["FilePath"] in self.hub.damaged else body, {})
        return self._refuse(404, "no such file")

    def _commits(self, repo: Repo, query: dict[str, str]) -> None:
        tip = repo.refs.get(query["Ref"])
        history = list(repo.commits)
        history = history[: history.index(tip) + 1][::-1] if tip is not None else []
        size = int(query["PageSize"])
        start = (int(query["PageNumber"]) - 1) * size
        page = [{"Id": one, "ShortId": one[:8], "Message": "a commit"} for one in history[start : start + size]]
        self._json({"Commit": page or None, "TotalCount": len(history)})

    def _token(self) -> str | None:
        cookie = SimpleCookie(self.headers.get("Cookie", "")).get("m_session_id")
        bearer = self.headers.get("Authorization", "").removeprefix("Bearer ")
        return bearer or (cookie.value if cookie is not None else None)

    def _json(self, content: Any, envelope: str = "Data") -> None:
        body = {"Code": 200, "Success": True, "Message": "success", envelope: content}
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, message: str) -> None:
        body = {"Code": 10010205001, "Success": False, "Message": message, "RequestId": "0"}
        self._send(status, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        span = self.headers.get("Range", "")
        if status == 200 and span.startswith("bytes="):
            first, _, last = span.removeprefix("bytes=").partition("-")
            stop = min(int(last) + 1, len(body)) if last else len(body)
            headers = {**headers, "Content-Range": f"bytes {first}-{stop - 1}/{len(body)}"}
            body, status = body[int(first) : stop], 206
        self.hub.requests.append(Request("GET", self.path, self._token(), status))
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _entries(files: Files) -> Iterator[dict[str, Any]]:
    for folder in sorted({name.rpartition("/")[0] for name in files if "/" in name}):
        yield {"Path": folder, "Name": folder, "Type": "tree", "Size": 0, "Sha256": ""}
    for name, body in files.items():
        digest = hashlib.sha256(body).hexdigest()
        yield {"Path": name, "Name": name.rpartition("/")[2], "Type": "blob", "Size": len(body), "Sha256": digest}
