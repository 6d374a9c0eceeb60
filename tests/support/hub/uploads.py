"""Responses of the loopback Hub to writers: new repos, uploads of small and large files, commits, PRs.

As on the Hub, a token may read without write access; large files go to the storage at signed URLs without a token,
or through Xet; and a repo contains nothing before the commit that names it.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

from tests.support.hub.handler import Handler
from tests.support.hub.repos import ATTRIBUTES, Repo, git_sha, is_large, sha256
from tests.support.hub.storage import upload_signature

_LFS = re.compile(r"/((?:[^/]+/)?[^/]+)\.git/info/lfs/objects/(batch|verify)")
_WRITE = re.compile(r"/api/models/((?:[^/]+/)?[^/]+?)/(preupload|commit|xet-write-token)/(.+)")


class Uploads(Handler):
    """The part of the Hub's handler for writers."""

    _json: Any
    _error: Any
    _repo: Any
    query: dict[str, list[str]]

    def _wrote(self, route: str) -> bool:
        """Respond to a write request; return whether it is one."""
        if match := _LFS.fullmatch(route):
            getattr(self, f"_lfs_{match[2]}")(json.loads(self.body))
        elif match := _WRITE.fullmatch(route):
            self._write_to(*match.groups())
        elif route == "/api/repos/create":
            self._create(json.loads(self.body))
        elif route == "/api/repos/delete":
            self._delete(json.loads(self.body))
        elif route == "/api/validate-yaml":
            self._validate(json.loads(self.body)["content"])
        else:
            return False
        return True

    def _write_to(self, repo_id: str, what: str, revision: str) -> None:
        create_pr = "create_pr" in self.query
        repo = self._writable(repo_id, create_pr=create_pr or what == "xet-write-token")
        if repo is None:
            return
        if what == "preupload":
            self._preupload(repo, revision)
        elif what == "commit":
            self._commit(repo, revision, create_pr=create_pr)
        else:
            self._xet_token()

    def _writable(self, repo_id: str, *, create_pr: bool = False) -> Repo | None:
        repo: Repo | None = self._repo(repo_id, "/{}")
        if repo is None:
            return None
        if self.token is None:
            self._error(401, None, "Invalid username or password.")
            return None
        writes = repo_id.partition("/")[0] in self.hub.writers.get(self.token, ())
        if not writes and not (create_pr and self.token in self.hub.proposers):
            self._error(403, None, "Forbidden: you must use a write token to upload to a repository.")
            return None
        return repo

    def _create(self, asked: dict[str, Any]) -> None:
        if self.token is None:
            return self._error(401, None, "Invalid username or password.")
        owner = asked["organization"]
        if owner not in self.hub.writers.get(self.token, ()):
            return self._error(
                403, None, f'You don\'t have the rights to create a model under the namespace "{owner}"'
            )
        repo_id = f"{owner}/{asked['name']}"
        answer = {"url": f"{self.hub.url}/{repo_id}", "name": repo_id}
        if repo_id in self.hub.repos:
            return self._json({**answer, "error": "You already created this model repo"}, status=409)
        self.hub.add(
            repo_id,
            {".gitattributes": ATTRIBUTES},
            private=asked.get("visibility") == "private" or bool(asked.get("private")),
        )
        self.hub.tokens.setdefault(self.token, set()).add(repo_id)
        self._json(answer)

    def _delete(self, asked: dict[str, Any]) -> None:
        repo_id = f"{asked['organization']}/{asked['name']}"
        if self._writable(repo_id) is not None:
            del self.hub.repos[repo_id]
            self._json({})

    def _validate(self, content: str) -> None:
        data = front_matter(content)
        wrong = [key for key in ("license", "library_name", "pipeline_tag") if not isinstance(data.get(key, ""), str)]
        if wrong:
            errors = [{"message": f'"{key}" must be a string'} for key in wrong]
            return self._json({"errors": errors, "error": "Invalid metadata"}, status=400)
        self._json({"errors": [], "warnings": []})

    def _preupload(self, repo: Repo, revision: str) -> None:
        files, there = [], repo.commits[repo.refs[revision]]
        for asked in json.loads(self.body)["files"]:
            large = is_large(asked["path"], asked["size"])
            old = there.get(asked["path"])
            oid = None if old is None else sha256(old) if large else git_sha(old)
            mode = "lfs" if large else "regular"
            files.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json({"files": files, "commitOid": repo.refs[revision]})

    def _lfs_batch(self, asked: dict[str, Any]) -> None:
        if self.token is None:
            return self._error(401, None, "Invalid username or password.")
        objects = []
        for one in asked["objects"]:
            known = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.hub.stored:
                signed = f"{self.hub.cdn}/lfs-store/{one['oid']}?signature={upload_signature(one['oid'])}"
                verify = f"{self.hub.url}{self.path.replace('objects/batch', 'objects/verify')}"
                known["actions"] = {"upload": {"href": signed}, "verify": {"href": verify}}
            objects.append(known)
        by_xet = self.hub.xet is not None and "xet" in asked.get("transfers", ())
        self._json({"transfer": "xet" if by_xet else "basic", "objects": objects})

    def _lfs_verify(self, asked: dict[str, Any]) -> None:
        there = self.hub.stored.get(asked["oid"])
        if there is None or len(there) != asked["size"]:
            return self._error(404, None, "There is no such object")
        self._json({})

    def _xet_token(self) -> None:
        if self.hub.xet is None or self.hub.xet.url is None:
            return self._error(403, None, "Forbidden")
        address, expires = self.hub.xet.url, 9999999999
        headers: Mapping[str, str] = {
            "X-Xet-Cas-Url": address,
            "X-Xet-Access-Token": "xet_token",
            "X-Xet-Token-Expiration": str(expires),
        }
        self._json({"casUrl": address, "exp": expires, "accessToken": "xet_token"}, headers)

    def _commit(self, repo: Repo, revision: str, *, create_pr: bool) -> None:
        entries = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        parent = next(one["value"] for one in entries if one["key"] == "header").get("parentCommit")
        if parent not in (None, repo.refs[revision]):
            return self._error(412, None, "A commit has happened since. Please refresh and try again.")
        files = dict(repo.commits[repo.refs[revision]])
        for one in entries:
            value = one["value"]
            if one["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif one["key"] == "lfsFile":
                body = self.hub.stored.get(value["oid"]) or (self.hub.xet and self.hub.xet.find(value["oid"]))
                if not body:
                    return self._error(400, None, f"LFS pointer pointed to a file that does not exist: {value['oid']}")
                files[value["path"]] = body
        number = 1 + sum(ref.startswith("refs/pr/") for ref in repo.refs)
        sha = repo.commit(files, f"refs/pr/{number}" if create_pr else revision)
        if not create_pr and "README.md" in files:
            repo.card = front_matter(files["README.md"].decode()) or None
            repo.library_name = (repo.card or {}).get("library_name")
            repo.pipeline_tag = (repo.card or {}).get("pipeline_tag")
        page = f"{self.hub.url}/{repo.repo_id}"
        answer = {"success": True, "commitOid": sha, "commitUrl": f"{page}/commit/{sha}", "hookOutput": ""}
        self._json({**answer, **({"pullRequestUrl": f"{page}/discussions/{number}"} if create_pr else {})})


def front_matter(text: str) -> dict[str, Any]:
    """Return the metadata of a card."""
    _, marker, rest = text.partition("---\n")
    block = rest.partition("\n---")[0] if marker else ""
    return yaml.safe_load(block) or {}
