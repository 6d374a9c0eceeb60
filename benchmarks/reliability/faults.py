"""The faults of a faulty Hub: each fault answers one request, over a real socket."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.hub import LoopbackHub

__all__ = ["FAULTS", "STALLED", "Site"]

STALLED = 70  # Seconds; longer than any operation may take.


@dataclass
class Site:
    """The context of a fault: the handler of a request, and the normal response."""

    handler: Any
    normally: Callable[[], None]
    elsewhere: str
    count: int
    """Number of requests that this fault has seen."""
    repo_id: str
    hub: LoopbackHub
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def wants_file(self) -> bool:
        return "/resolve/" in self.handler.about

    def say(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.handler._send(status, body, {name.replace("_", "-"): value for name, value in headers.items()})

    def reset(self) -> None:
        """End the connection with RST, as a router does."""
        connection = self.handler.connection
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.handler.close_connection = True
        connection.close()
        raise ConnectionResetError

    def changed(self, change: Callable[[int, bytes, dict[str, str]], tuple[int, bytes, dict[str, str]]]) -> None:
        """Send the normal response, with status, body and headers changed."""
        send = self.handler._send
        self.handler._send = lambda status, body, headers: send(*change(status, body, dict(headers)))
        try:
            self.normally()
        finally:
            del self.handler._send


def _bursts(statuses: list[int], **headers: str) -> Callable[[Site], None]:
    def fault(site: Site) -> None:
        if site.count < len(statuses):
            site.say(statuses[site.count], b"{}", **headers)
        else:
            site.normally()

    return fault


def _always(status: int, **headers: str) -> Callable[[Site], None]:
    return lambda site: site.say(status, b"{}", **headers)


def _to(target: str) -> Callable[[Site], None]:
    def fault(site: Site) -> None:
        site.say(307, Location=target.format(elsewhere=site.elsewhere, path=site.handler.path))

    return fault


def _delay(site: Site) -> None:
    time.sleep(0.3)
    site.normally()


def _stall(site: Site) -> None:
    time.sleep(STALLED)


def _reset(site: Site) -> None:
    site.reset()


def _reset_first(site: Site) -> None:
    site.reset() if site.count % 3 == 0 else site.normally()


def _bodies(change: Callable[[bytes], bytes]) -> Callable[[Site], None]:
    """Change the content of files."""

    def fault(site: Site) -> None:
        if not site.wants_file:
            return site.normally()
        site.changed(lambda status, body, headers: (status, change(body) if status < 300 else body, headers))

    return fault


def _headers(**other: str) -> Callable[[Site], None]:
    def fault(site: Site) -> None:
        replaced = {name.replace("_", "-"): value for name, value in other.items()}
        site.changed(lambda status, body, headers: (status, body, {**headers, **replaced}))

    return fault


def _hangs_up(site: Site) -> None:
    """Announce a file, send half of it, and close the connection."""
    if not site.wants_file or site.handler.command == "HEAD":
        return site.normally()

    def halved(status: int, body: bytes, headers: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        site.handler.close_connection = True
        return status, body[: len(body) // 2], {**headers, "Content-Length": str(len(body))}

    site.changed(halved)


def _says_html(site: Site) -> None:
    site.say(200, b"<html>Please log in</html>", Content_Type="text/html")


def _info(change: Callable[[dict[str, Any]], Any]) -> Callable[[Site], None]:
    """Change the repo info."""

    def fault(site: Site) -> None:
        if site.wants_file:
            return site.normally()

        def answer(status: int, body: bytes, headers: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
            with contextlib.suppress(ValueError):
                content = json.loads(body)
                if isinstance(content, dict) and status == 200:
                    body = json.dumps(change(content)).encode()
            return status, body, headers

        site.changed(answer)

    return fault


def _commit_gone(site: Site) -> None:
    site.say(404, b'{"error": "gone"}', X_Error_Code="RevisionNotFound") if site.count else site.normally()


def _branch_moves(site: Site) -> None:
    """Move the branch after the first response: all files must still be from one commit."""
    site.normally()
    repo = site.hub.repos[site.repo_id]
    if site.count < 3:
        config = json.loads(repo.commits[repo.refs["main"]]["config.json"])
        config["moved"] = site.count
        repo.commit({**repo.commits[repo.refs["main"]], "config.json": json.dumps(config).encode()})


FAULTS: dict[str, Callable[[Site], None]] = {
    "delay": _delay,
    "stall": _stall,
    "reset": _reset,
    "reset one in three": _reset_first,
    "hang up in the middle of files": _hangs_up,
    "files cut short": _bodies(lambda body: body[: len(body) // 2]),
    "files empty": _bodies(lambda body: b""),
    "files of other content": _bodies(lambda body: body[:-1] + b"\0"),
    "too long a Content-Length": _headers(Content_Length="999999999"),
    "an invalid Content-Length": _headers(Content_Length="many"),
    "wrong ETag": _headers(ETag='"0123456789012345678901234567890123456789"'),
    "no ETag": _headers(ETag=""),
    "ETag that climbs": _headers(ETag='"../../../outside"'),
    "another commit in the header": _headers(X_Repo_Commit="0" * 40),
    "429 with Retry-After": _bursts([429, 429], Retry_After="1"),
    "429 without Retry-After": _bursts([429, 429]),
    "429 for ever": _always(429, Retry_After="3600"),
    "a burst of 500": _bursts([500]),
    "a burst of 502": _bursts([502, 502]),
    "a burst of 503": _bursts([503, 503, 503]),
    "a burst of 504": _bursts([504, 504]),
    "500 for ever": _always(500),
    "401 for ever": _always(401),
    "403 for ever": _always(403),
    "404 for ever": _always(404),
    "418": _always(418),
    "redirect in a circle": _to("{path}"),
    "redirect to another host": _to("{elsewhere}{path}"),
    "redirect to file://": _to("file:///etc/passwd"),
    "redirect to nowhere": _to("//["),
    "HTML instead": _says_html,
    "empty answers": _always(200),
    "a list instead of repo info": _info(lambda content: [content]),
    "repo info without a commit": _info(lambda content: {**content, "sha": None}),
    "repo info without files": _info(lambda content: {**content, "siblings": None}),
    "repo info of another shape": _info(lambda content: {name: [value] for name, value in content.items()}),
    "files that climb": _info(lambda content: {**content, "siblings": [{"rfilename": "../../evil.json"}]}),
    "commit gone": _commit_gone,
    "branch that moves meanwhile": _branch_moves,
}
