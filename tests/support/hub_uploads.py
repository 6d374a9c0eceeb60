"""What the loopback Hub answers to those who write: new repos, uploads of small and of large files, commits, PRs.

As on the Hub, a token may read without being allowed to write; large files go to a store that knows no tokens, at
addresses that it signs; and nothing is in a repo before the commit that names it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

if TYPE_CHECKING:
    from tests.support.hub import LoopbackHub, Repo

_LFS = (".safetensors", ".bin", ".onnx", ".onnx_data", ".model", ".h5", ".png")
_REGULAR_LIMIT = 10_000_000
ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in _LFS).encode()


class Uploads:
    """The part of the request handler that is for POST and PUT."""

    hub: LoopbackHub
    command: str
    path: str

    def do_POST(self) -> None:  # noqa: N802
        self._written()

    def do_PUT(self) -> None:  # noqa: N802
        self._written()

    def do_DELETE(self) -> None:  # noqa: N802
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        repo_id = f"{asked['organization']}/{asked['name']}"
        self.hub.before_answer(self.command, self.path)
        if self.path != "/api/repos/delete" or self._writable(repo_id) is None:
            return self._error(404, "RepoNotFound", "Repository not found")
        del self.hub.repos[repo_id]
        self._json({})

    def _written(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.before_answer(self.command, self.path)
        url = urlsplit(self.path)
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        query = parse_qs(url.query)
        if self.hub.status is not None:
            return self._error(self.hub.status, None, "The server is told to fail")
        if parts[0] == "lfs-store":
            return self._store(parts[1], body, query)
        if parts == ["api", "repos", "create"]:
            return self._create(json.loads(body))
        if parts == ["api", "validate-yaml"]:
            return self._validate(json.loads(body)["content"])
        if parts[-3:] == ["info", "lfs", "objects"] or parts[-2:] == ["objects", "batch"]:
            return self._batch("/".join(parts[:-4]).removesuffix(".git"), json.loads(body))
        for step, answer in (("preupload", self._preupload), ("commit", self._commit)):
            if parts[:2] == ["api", "models"] and step in parts[2:]:
                cut = parts.index(step)
                return answer("/".join(parts[2:cut]), "/".join(parts[cut + 1 :]), body, "create_pr" in query)
        return self._error(404, "EntryNotFound", "No such page")

    def _writable(self, repo_id: str, *, create_pr: bool = False) -> Repo | None:
        repo = self._repo(repo_id, "{}")
        if repo is None:
            return None
        if self._token() is None:
            self._error(401, None, "Invalid username or password.")
            return None
        writes = repo_id.partition("/")[0] in self.hub.writers.get(self._token() or "", ())
        if not writes and not (create_pr and self._token() in self.hub.proposers):
            self._error(403, None, "Forbidden: you must use a write token to upload to a repository.")
            return None
        return repo

    def _create(self, asked: dict[str, Any]) -> None:
        if self._token() is None:
            return self._error(401, None, "Invalid username or password.")
        owner = asked["organization"]
        if owner not in self.hub.writers.get(self._token() or "", ()):
            return self._error(
                403, None, f'You don\'t have the rights to create a model under the namespace "{owner}"'
            )
        repo_id = f"{owner}/{asked['name']}"
        answer = {"url": f"{self.hub.url}/{repo_id}", "name": repo_id}
        if repo_id in self.hub.repos:
            return self._send(409, json.dumps({**answer, "error": "You already created this model repo"}).encode(), {})
        self.hub.add(repo_id, {".gitattributes": ATTRIBUTES}, private=bool(asked.get("private")))
        self.hub.tokens.setdefault(self._token() or "", set()).add(repo_id)
        self._json(answer)

    def _validate(self, content: str) -> None:
        data = front_matter(content)
        wrong = [key for key in ("license", "library_name", "pipeline_tag") if not isinstance(data.get(key, ""), str)]
        if wrong:
            errors = [{"message": f'"{key}" must be a string'} for key in wrong]
            return self._send(400, json.dumps({"errors": errors, "error": "Invalid metadata"}).encode(), {})
        self._json({"errors": [], "warnings": []})

    def _preupload(self, repo_id: str, revision: str, body: bytes, create_pr: bool) -> None:
        repo = self._writable(repo_id, create_pr=create_pr)
        if repo is None:
            return
        files = []
        there = repo.commits[repo.refs[revision]]
        for asked in json.loads(body)["files"]:
            mode = "lfs" if asked["path"].endswith(_LFS) or asked["size"] > _REGULAR_LIMIT else "regular"
            old = there.get(asked["path"])
            oid = None if old is None else _oid(old, mode)
            files.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json({"files": files})

    def _batch(self, repo_id: str, asked: dict[str, Any]) -> None:
        if self._token() is None:
            return self._error(401, None, "Invalid username or password.")
        objects = []
        for one in asked["objects"]:
            known = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.hub.stored:
                address = f"{self.hub.url}/lfs-store/{one['oid']}"
                signed = {"href": f"{address}?signature={_signature(one['oid'])}"}
                known["actions"] = {"upload": signed, "verify": {"href": f"{address}?verify=1"}}
            objects.append(known)
        self._json({"transfer": "basic", "objects": objects})

    def _store(self, oid: str, body: bytes, query: dict[str, list[str]]) -> None:
        if "verify" in query:
            there = self.hub.stored.get(oid)
            asked = json.loads(body)
            if there is None or len(there) != asked["size"]:
                return self._error(404, None, "There is no such object")
            return self._json({})
        if self._token() is not None or query.get("signature") != [_signature(oid)]:
            return self._error(403, None, "Only signed requests are taken, and no tokens")
        if hashlib.sha256(body).hexdigest() != oid:
            return self._error(400, None, "The content is not what was announced")
        self.hub.stored[oid] = body
        self._send(200, b"", {})

    def _commit(self, repo_id: str, revision: str, body: bytes, create_pr: bool) -> None:
        repo = self._writable(repo_id, create_pr=create_pr)
        if repo is None:
            return
        entries = [json.loads(line) for line in body.splitlines()]
        parent = next(one["value"] for one in entries if one["key"] == "header").get("parentCommit")
        if parent not in (None, repo.refs[revision]):
            return self._error(412, None, "A commit has happened since. Please refresh and try again.")
        files = dict(repo.commits[repo.refs[revision]])
        for one in entries:
            value = one["value"]
            if one["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif one["key"] == "lfsFile":
                if value["oid"] not in self.hub.stored:
                    return self._error(400, None, f"The LFS object {value['oid']} was never uploaded")
                files[value["path"]] = self.hub.stored[value["oid"]]
        number = 1 + sum(ref.startswith("refs/pr/") for ref in repo.refs)
        sha = repo.commit(files, f"refs/pr/{number}" if create_pr else revision)
        if not create_pr and "README.md" in files:
            repo.card = front_matter(files["README.md"].decode()) or None
            repo.library_name = (repo.card or {}).get("library_name")
            repo.pipeline_tag = (repo.card or {}).get("pipeline_tag")
        page = f"{self.hub.url}/{repo_id}"
        answer = {"success": True, "commitOid": sha, "commitUrl": f"{page}/commit/{sha}", "hookOutput": ""}
        self._json({**answer, **({"pullRequestUrl": f"{page}/discussions/{number}"} if create_pr else {})})


def front_matter(text: str) -> dict[str, Any]:
    """Return the metadata of a card."""
    _, marker, rest = text.partition("---\n")
    block = rest.partition("\n---")[0] if marker else ""
    return yaml.safe_load(block) or {}


def _oid(body: bytes, mode: str) -> str:
    if mode == "lfs":
        return hashlib.sha256(body).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


def _signature(oid: str) -> str:
    return hashlib.sha256(f"signed {oid}".encode()).hexdigest()[:16]
