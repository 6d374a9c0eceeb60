"""The other origins of the loopback Hub: the storage of large files, and a mirror."""

from __future__ import annotations

import hashlib
import json
import time
from urllib.parse import parse_qs, quote, urlsplit

from tests.support.hub.handler import Handler
from tests.support.hub.server import Signed

_XML = {"Content-Type": "application/xml", "X-Cache": "Error from cloudfront"}


class StorageHandler(Handler):
    """Checks signatures and ignores tokens."""

    origin = "cdn"

    @property
    def about(self) -> str:
        if (signed := self._signed()) is None:
            return self.path
        return f"/{signed.repo_id}/resolve/{signed.commit}/{quote(signed.name)}"

    def _signed(self) -> Signed | None:
        return self.hub.signature(parse_qs(urlsplit(self.path).query).get("Signature", [""])[0])

    def answer(self) -> None:
        if self.token is not None:
            return self._refused(400, "InvalidArgument: Only one auth mechanism allowed")
        if self.command == "PUT":
            return self._store()
        signed = self._signed()
        if signed is None or signed.expires < time.time():
            return self._refused(403, "AccessDenied: Access denied")
        if signed.span not in (None, self.headers.get("Range")):
            return self._send(403, b"Auth failed: invalid range", {"Content-Type": "text/plain"})
        repo = self.hub.repos.get(signed.repo_id)
        body = None if repo is None else repo.commits.get(signed.commit, {}).get(signed.name)
        if body is None:
            return self._refused(404, "NoSuchKey: The specified key does not exist.")
        facts = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", "Cache-Control": "max-age=9"}
        self._send(200, body, {**facts, "ETag": f'"{self.hub.xet_hash(body)}"', "X-Cache": "Hit from cloudfront"})

    def _refused(self, status: int, reason: str) -> None:
        code, _, message = reason.partition(": ")
        self._send(status, f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode(), _XML)

    def _store(self) -> None:
        oid = self.route.rpartition("/")[2]
        if parse_qs(urlsplit(self.path).query).get("signature") != [upload_signature(oid)]:
            return self._refused(403, "AccessDenied: Access denied")
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self._refused(400, "BadDigest: The content is not what was announced")
        self.hub.stored[oid] = self.body
        self._send(200, b"", {"ETag": f'"{hashlib.md5(self.body).hexdigest()}"'})


class MirrorHandler(Handler):
    """Redirects to the Hub, as hf-mirror.com does."""

    origin = "mirror"

    def answer(self) -> None:
        if self.hub.status is not None:
            return self._send(self.hub.status, json.dumps({"error": "set to fail"}).encode(), {})
        self._send(308, b"", {"Location": self.hub.url + self.path, "Content-Type": "text/html"})


def upload_signature(oid: str) -> str:
    return hashlib.sha256(f"signed {oid}".encode()).hexdigest()[:16]
