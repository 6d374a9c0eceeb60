"""A Hub that misbehaves over real sockets: right answers or typed errors, in a minute, and the token to nobody else.

Each fault has repos of its own on one server, so that they can be tried side by side; a second server on another host
name notes what it is sent. Every operation runs in a process of its own, with an empty cache.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.pairs import empty_hub
from benchmarks.reliability.operations import Fault, Laboratory, places, silent
from benchmarks.reliability.trials import Form, Trial, main
from optimum_htp.onnxfile import rewrite_model
from tests.support.hub import LoopbackHub

TOKEN = "hf_not_to_be_seen_elsewhere"
SECONDS = 60  # that an operation may take, and some for the process around it
SLACK = 10
SIDE_BY_SIDE = 16


@dataclass
class Site:
    """What a fault has at hand to answer with: the handler of a request, and what it would have answered."""

    handler: Any
    normally: Callable[[], None]
    elsewhere: str
    count: int
    """How many requests this fault has seen before."""
    repo_id: str
    hub: LoopbackHub
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def wants_file(self) -> bool:
        return "/resolve/" in self.handler.path

    def say(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.handler._send(status, body, {name.replace("_", "-"): value for name, value in headers.items()})

    def reset(self) -> None:
        """End the connection with RST, as a router that has lost it does."""
        connection = self.handler.connection
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.handler.close_connection = True
        connection.close()
        raise ConnectionResetError

    def changed(self, change: Callable[[int, bytes, dict[str, str]], tuple[int, bytes, dict[str, str]]]) -> None:
        """Answer as normally, with status, body and headers changed."""
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
    time.sleep(SECONDS + SLACK)


def _reset(site: Site) -> None:
    site.reset()


def _reset_first(site: Site) -> None:
    site.reset() if site.count % 3 == 0 else site.normally()


def _bodies(change: Callable[[bytes], bytes]) -> Callable[[Site], None]:
    """Change what files have in them."""

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
    """Announce a file, send half of it, and hang up."""
    if not site.wants_file or site.handler.command == "HEAD":
        return site.normally()

    def halved(status: int, body: bytes, headers: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        site.handler.close_connection = True
        return status, body[: len(body) // 2], {**headers, "Content-Length": str(len(body))}

    site.changed(halved)


def _says_html(site: Site) -> None:
    site.say(200, b"<html>Please log in</html>", Content_Type="text/html")


def _info(change: Callable[[dict[str, Any]], Any]) -> Callable[[Site], None]:
    """Change what repo info says."""

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
    """Let the branch move once the first answer is given: what was begun is of one commit."""
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
    "a Content-Length that is none": _headers(Content_Length="many"),
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


class FaultyHub(LoopbackHub):
    """A Hub that answers for some repos as their faults want it. A fault's repos are `fault-N/OPERATION`."""

    elsewhere = ""

    def __init__(self) -> None:
        self.seen: dict[str, Iterator[int]] = {}
        super().__init__()

    def _handler(self) -> Any:
        hub, normal = self, super()._handler()

        class Handler(normal):  # type: ignore[misc, valid-type]
            def _answer(self) -> None:
                owner, _, rest = self.path.lstrip("/").removeprefix("api/models/").partition("/")
                if not owner.startswith("fault-"):
                    return super()._answer()
                repo_id = f"{owner}/{rest.split('/')[0].split('?')[0]}"
                with hub._lock:
                    count = next(hub.seen.setdefault(repo_id, itertools.count()))
                fault = list(FAULTS.values())[int(owner.removeprefix("fault-"))]
                fault(Site(self, super()._answer, hub.elsewhere, count, repo_id, hub))

        return Handler


def export(source: str, place: Path) -> Any:
    from optimum_htp import HTPExporter

    result = HTPExporter().export(source, place / "out", task="text-classification", cache_dir=place / "cache")
    return result.metadata.hub_sha


def look_up(source: str, place: Path) -> Any:
    from optimum_htp.hubs.base import HubAccess
    from optimum_htp.origin.source import locate

    return locate(source, None, HubAccess(cache_dir=place / "cache")).commit


def load(source: str, place: Path) -> Any:
    """Load config and tokenizer of a file that names the commit."""
    from transformers import AutoConfig, AutoTokenizer

    file = place / "model.onnx"
    config = AutoConfig.from_pretrained(file, cache_dir=place / "cache")
    return config.num_labels, AutoTokenizer.from_pretrained(file, cache_dir=place / "cache").tokenize("the cat")


def verify(source: str, place: Path) -> Any:
    from optimum_htp import verify_metadata
    from optimum_htp.hubs.base import HubAccess

    return verify_metadata(place / "model.onnx", HubAccess(cache_dir=place / "cache")).status.name


OPERATIONS: dict[str, Callable[[str, Path], Any]] = {
    "look_up": look_up,
    "load": load,
    "verify": verify,
    "export": export,
}


def _called(operation: str, source: str, place: Path, telling: Any) -> None:
    silent()
    start = time.perf_counter()
    try:
        answer = OPERATIONS[operation](source, place)
    except Exception as error:  # noqa: BLE001 - which kind it is, is what is asked
        telling.send((None, Fault.of(error), time.perf_counter() - start))
    else:
        telling.send((answer, None, time.perf_counter() - start))


def _pin(repo_id: str, commit: str) -> dict[str, str]:
    return {"hf_hub_id": repo_id, "hf_hub_sha": commit, "hf_hub_revision": commit[:8]}


def tried(laboratory: Laboratory, number: int, fault: str, operation: str) -> tuple[list[str], str]:
    """Do something while the Hub has a fault; return what was lost, and what came of it."""
    repo = laboratory.hub.add(f"fault-{number}/{operation.replace('_', '-')}", pipeline_tag="text-classification")
    commits = [repo.commit(laboratory.repo.commits[laboratory.second])]
    place = laboratory.root / f"{number}-{operation}"
    place.mkdir()
    shutil.copyfile(laboratory.root / "bare" / "model.onnx", place / "model.onnx")
    rewrite_model(place / "model.onnx", metadata=_pin(repo.repo_id, commits[0]))
    receiving, sending = laboratory.context.Pipe(duplex=False)
    process = laboratory.context.Process(target=_called, args=(operation, repo.repo_id, place, sending))
    process.start()
    sending.close()
    if not receiving.poll(SECONDS + 2 * SLACK):
        process.kill()
        return [f"{fault}: {operation} did not end"], "stuck"
    try:
        answer, error, seconds = receiving.recv()
    except EOFError:
        return [f"{fault}: {operation} died"], "dead"
    process.join()
    lost = []
    if seconds > SECONDS + SLACK:
        lost.append(f"{operation} took {seconds:.0f} s")
    if error is not None and not error.is_typed:
        lost.append(f"{operation} raised {error}")
    if error is not None and list(place.glob("out/*.onnx")):
        lost.append(f"{operation} failed, and left a file")
    right = {
        "look_up": list(repo.commits),
        "export": list(repo.commits),
        "load": [(3, ["the", "cat"])],
        "verify": ["OK", "UNREACHABLE"],
    }
    if error is None and answer not in right[operation]:
        lost.append(f"{operation} answered {answer!r}")
    lost += [f"{operation} wrote {path}" for path in laboratory.root.parent.glob("outside*")]
    return [f"{fault}: {loss}" for loss in lost], "answered" if error is None else error.kind


def trials(form: Form) -> Iterator[Trial]:
    quick = form is Form.QUICK
    os.environ.update(HF_TOKEN=TOKEN, OMP_NUM_THREADS="1")
    kinds = list(OPERATIONS)[:2] if quick else list(OPERATIONS)
    slow = {"stall", "too long a Content-Length", "a Content-Length that is none"} if quick else set()
    chosen = [(number, fault) for number, fault in enumerate(FAULTS) if fault not in slow]
    with empty_hub(FaultyHub) as (hub, _), LoopbackHub() as other:
        hub.elsewhere = other.url.replace("127.0.0.1", "localhost")
        with tempfile.TemporaryDirectory(dir=next(places())) as root:
            (nested := Path(root, "a", "b")).mkdir(parents=True)
            laboratory = Laboratory(hub, nested)
            pairs = [(number, fault, kind) for number, fault in chosen for kind in kinds]
            with ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
                results = list(threads.map(lambda pair: tried(laboratory, *pair), pairs))
        told = [request for request in other.requests if request.token is not None]
    lost = [loss for losses, _ in results for loss in losses]
    lost += [f"the token went to another host: {request.method} {request.path}" for request in told]
    answered = sum(outcome == "answered" for _, outcome in results)
    name = f"{len(chosen)} faults of a Hub: {', '.join(kinds)}".replace("_", " ")
    yield Trial(name, len(results), tuple(lost), f"{answered} answered, {len(results) - answered} typed errors")


if __name__ == "__main__":
    main(__doc__, trials)
