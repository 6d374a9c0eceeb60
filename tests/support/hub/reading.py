"""Responses of the loopback Hub to readers: files, repo info, trees, histories and lists."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from tests.support.hub.repos import Files, Repo, git_sha, is_large, repo_info, sha256, tree_entries, tree_entry
from tests.support.hub.server import standard_headers
from tests.support.hub.uploads import Uploads

_ID = r"([^/]+(?:/[^/]+)??)"
_API = re.compile(
    rf"/api/models/{_ID}(?:/(revision|tree|refs|commits|paths-info|xet-read-token|xet-write-token|preupload|commit)"
    r"(?:/(.*))?)?"
)
_RESOLVE = re.compile(rf"/{_ID}/resolve/(.+)")
_CACHED = re.compile(r"/api/resolve-cache/models/([^/]+/[^/]+)/([0-9a-f]{40})/(.+)")
_PAGE = re.compile(rf"/{_ID}(?:/(?:blob|tree)/.+)?")
_WRITES = ("xet-write-token", "preupload", "commit")
_JSON = "application/json; charset=utf-8"
_TEXT = "text/plain; charset=utf-8"


class HubHandler(Uploads):
    origin = "hub"
    packs = True

    @property
    def about(self) -> str:
        match = _CACHED.fullmatch(self.route)
        return self.path if match is None else f"/{match[1]}/resolve/{match[2]}/{quote(match[3])}"

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.path).query)

    def answer(self) -> None:
        if self.hub.status is not None:
            return self._error(self.hub.status, None, "The server is set to fail")
        wait = self.hub.counted()
        if wait is not None:
            return self._error(429, None, "We had to rate limit your IP (203.0.113.7).", wait=wait)
        route = self.route
        if route.startswith("/api/") and self.token and self.token not in self.hub.known_tokens():
            return self._error(401, None, "Invalid credentials in Authorization header")
        if match := _CACHED.fullmatch(route):
            return self._cached(*match.groups())
        if match := _RESOLVE.fullmatch(route):
            return self._file(*match.groups())
        if route == "/api/whoami-v2":
            names = sorted(self.hub.writers.get(self.token or "", ()))
            return self._json({"type": "user", "name": names[0]}) if names else self._error(401, None, "Who are you?")
        if route.startswith("/api/collections/"):
            return self._collection(route.removeprefix("/api/collections/"))
        if route == "/api/models":
            return self._models()
        if self._wrote(route):
            return None
        if match := _API.fullmatch(route):
            return self._api(*match.groups())
        if (page := _PAGE.fullmatch(route)) and page[1] in self.hub.repos:
            return self._send(200, b"<!doctype html><html>a page</html>", {"Content-Type": "text/html; charset=utf-8"})
        self._error(404, None, "Sorry, we can't find the page you are looking for.")

    def _file(self, repo_id: str, rest: str) -> None:
        repo = self._repo(repo_id, f"/{{}}/resolve/{quote(rest)}")
        if repo is None:
            return
        sha, name = repo.split_revision(rest)
        if repo.gated and not self._allowed(repo):
            return self._closed(repo)
        if sha is None:
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {rest.partition('/')[0]}")
        body = repo.commits[sha].get(name)
        if body is None:
            return self._error(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": sha})
        facts = {"X-Repo-Commit": sha, "Accept-Ranges": "bytes", "Content-Type": _TEXT}
        if repo_id in self.hub.stored_elsewhere:
            return self._send(302, b"", {**facts, "Location": self.hub.stored_elsewhere[repo_id] + self.path})
        if is_large(name, len(body)):
            return self._large(repo, sha, name, body, facts)
        etag = f'"{git_sha(body)}"'
        if repo.private or repo.gated or "/" not in repo_id or not body:
            return self._send(200, body, {**self._standard(), **facts, "ETag": etag})
        asked = urlsplit(self.path).path
        where = f"/api/resolve-cache/models/{repo_id}/{sha}/{quote(name)}?{quote(asked, safe='')}=&etag={quote(etag)}"
        self.is_hop = True
        linked = {
            "X-Linked-Size": str(len(body)),
            "X-Linked-ETag": etag,
            "ETag": 'W/"106-abcdefghijklmnopqrstuvwxyz0"',
        }
        self._send(307, f"Temporary Redirect. Redirecting to {where}".encode(), {**facts, **linked, "Location": where})

    def _large(self, repo: Repo, sha: str, name: str, body: bytes, facts: Mapping[str, str]) -> None:
        place, xet_hash = self.hub.signed(repo.repo_id, sha, name, self.headers.get("Range")), self.hub.xet_hash(body)
        links = (
            f'<{self.hub.url}/api/models/{repo.repo_id}/xet-read-token/{sha}>; rel="xet-auth", '
            f'<https://cas-server.xethub.hf.co/v1/reconstructions/{xet_hash}>; rel="xet-reconstruction-info"'
        )
        linked = {"X-Linked-Size": str(len(body)), "X-Linked-ETag": f'"{sha256(body)}"', "X-Xet-Hash": xet_hash}
        self.is_hop = self.command == "GET"
        headers = {**self._standard(), **facts, **linked, "Link": links, "Location": place}
        self._send(302, f"Found. Redirecting to {place}".encode(), headers)

    def _cached(self, repo_id: str, sha: str, name: str) -> None:
        repo = self.hub.repos.get(repo_id)
        body = None if repo is None else repo.commits.get(sha, {}).get(name)
        if body is None:
            return self._error(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": sha})
        facts = {"X-Repo-Commit": sha, "Accept-Ranges": "bytes", "ETag": f'"{git_sha(body)}"', "Content-Type": _TEXT}
        self._send(200, body, {**self._standard(), **facts, "Set-Cookie": "token=; Path=/; Secure; SameSite=None"})

    def _collection(self, slug: str) -> None:
        items = self.hub.collections.get(slug)
        if items is None:
            return self._error(404, None, "Collection not found")
        content = [{"_id": f"{at:024}", "id": id, "type": type, "position": at} for at, (type, id) in enumerate(items)]
        about = {"title": slug, "owner": {}, "lastUpdated": "2026-01-01T00:00:00.000Z", "theme": "blue"}
        self._json({"slug": slug, "items": content, "private": False, "upvotes": 0, "position": 0, **about})

    def _models(self) -> None:
        """List models, one page at a time."""
        author, tags = self.query.get("author", [None])[0], set(self.query.get("filter", []))
        found = [
            repo
            for name, repo in sorted(self.hub.repos.items())
            if author in (None, name.partition("/")[0])
            and tags <= {repo.library_name, repo.pipeline_tag}
            and (not repo.private or self._allowed(repo))
        ]
        if self.query.get("sort") == ["downloads"]:
            found.sort(key=lambda repo: -repo.downloads)
        self._paged(
            [repo_info(repo, repo.refs["main"]) for repo in found[: int(self.query.get("limit", ["1000"])[0])]]
        )

    def _paged(self, entries: list[Any]) -> None:
        """Send a page of a list; the next one's URL is in a header."""
        cursor = self.query.get("cursor", [""])[0]
        start = int(base64.b64decode(cursor) or b"0")
        stop = start + self.hub.page
        query = {**self.query, "cursor": [base64.b64encode(b"%d" % stop).decode()]}
        following = f"<{self.hub.url}{urlsplit(self.path).path}?{urlencode(query, doseq=True)}>"
        self._json(entries[start:stop], {"Link": f'{following}; rel="next"'} if stop < len(entries) else {})

    def _api(self, repo_id: str, kind: str | None, rest: str | None) -> None:
        repo = self._repo(
            repo_id, f"/api/models/{{}}{urlsplit(self.path).path.removeprefix(f'/api/models/{repo_id}')}"
        )
        if repo is None:
            return
        if repo.gated and repo.gated_api and not self._allowed(repo):
            return self._closed(repo)
        sha, below = repo.split_revision(rest or "main")
        if sha is None and (kind is not None or repo.commits):
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {rest}")
        files = repo.commits.get(sha or "", {})
        if kind in (None, "revision"):
            with_blobs = self.query.get("blobs") in (["true"], ["True"], ["1"])
            return self._json(repo_info(repo, sha, with_card=self.hub.serve_card, with_blobs=with_blobs))
        if kind == "tree":
            return self._tree(files, below)
        if kind == "commits":
            stamp = {"title": "commit", "message": "", "authors": [], "date": "2026-01-01T00:00:00.000Z"}
            return self._paged([{"id": one, **stamp} for one in reversed(repo.commits)])
        if kind == "refs":
            refs = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": at} for name, at in repo.refs.items()]
            return self._json({"branches": refs, "tags": [], "converts": []})
        if kind == "paths-info":
            is_json = self.headers.get("Content-Type", "").startswith("application/json")
            asked = json.loads(self.body) if is_json else parse_qs(self.body.decode())
            known = [name for name in asked["paths"] if name in files]
            return self._json([tree_entry(name, files[name], self.hub.xet_hash(files[name])) for name in known])
        if kind == "xet-read-token":
            return self._xet_token()
        self._error(404, None, "Sorry, we can't find the page you are looking for.")

    def _tree(self, files: Files, below: str) -> None:
        recursive = self.query.get("recursive") in (["True"], ["true"], ["1"])
        entries = tree_entries(files, below, self.hub.xet_hash, recursive=recursive)
        if not entries and below:
            return self._error(404, "EntryNotFound", f"{below} does not exist")
        self._paged(entries)

    def _repo(self, repo_id: str, path: str) -> Repo | None:
        if repo_id in self.hub.renamed:
            query = urlsplit(self.path).query
            target = path.format(self.hub.renamed[repo_id]) + (f"?{query}" if query else "")
            self._send(307, b"", {**self._standard(), "Location": target})
            return None
        repo = self.hub.repos.get(repo_id)
        if repo is None or (repo.private and not self._allowed(repo)):
            self._error(404 if self.token else 401, "RepoNotFound", "Repository not found")
            return None
        if repo.disabled:
            self._error(403, None, "Access to this resource is disabled.")
            return None
        return repo

    def _closed(self, repo: Repo) -> None:
        commit = {"X-Repo-Commit": repo.refs["main"]} if "main" in repo.refs else {}
        if self.token in self.hub.known_tokens():
            message = f"Access to model {repo.repo_id} is restricted and you are not in the authorized list."
            return self._error(403, "GatedRepo", message, commit)
        self._error(401, "GatedRepo", f"Access to model {repo.repo_id} is restricted. Please log in.", commit)

    def _allowed(self, repo: Repo) -> bool:
        return self.hub.may_read(self.token, repo)

    def _standard(self) -> Mapping[str, str]:
        return standard_headers("resolvers" if "/resolve/" in self.about else "api")

    def _json(self, content: Any, headers: Mapping[str, str] | None = None, status: int = 200) -> None:
        body = b"<html>Please log in</html>" if self.hub.garbled else json.dumps(content).encode()
        etag = f'W/"{len(body):x}-{hashlib.sha1(body).hexdigest()[:20]}"'
        self._send(status, body, {**self._standard(), "Content-Type": _JSON, "ETag": etag, **(headers or {})})

    def _error(
        self,
        status: int,
        code: str | None,
        message: str,
        headers: Mapping[str, str] | None = None,
        *,
        wait: int | None = None,
    ) -> None:
        extra = {**self._standard(), "Content-Type": _JSON, "X-Error-Message": message, **(headers or {})}
        if code is not None:
            extra["X-Error-Code"] = code
        if status == 401:
            extra["WWW-Authenticate"] = 'Bearer realm="Authentication required", charset="UTF-8"'
        if status == 429:
            wait = self.hub.wait if wait is None else wait
            extra |= standard_headers("resolvers" if "/resolve/" in self.about else "api", 0, wait)
            if self.hub.retry_after:
                extra["Retry-After"] = str(wait)
        self._send(status, json.dumps({"error": message}).encode(), extra)
