"""A misbehaving Hub over real sockets: correct results or typed errors in a minute, and no token for other hosts.

Each fault has its own repos on one server, so all run at the same time; a second server with another host name logs
its requests. Every operation runs in a new process with an empty cache.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.pairs import empty_hub
from benchmarks.reliability.faults import FAULTS, Site
from benchmarks.reliability.operations import Fault, Laboratory, places, silent
from benchmarks.reliability.trials import Form, Trial, main
from optimum_htp.onnxfile import rewrite_model
from tests.support.hub import LoopbackHub

TOKEN = "hf_not_to_be_seen_elsewhere"
SECONDS = 60  # of an operation, and some for its process
SLACK = 10
SIDE_BY_SIDE = 16
CONTRADICTS = {
    *("401 for ever", "commit gone", "redirect to another host", "files that climb"),
    *("files cut short", "files empty", "files of other content", "wrong ETag"),
}
"""Faults after which the Hub contradicts the record of a file: it lacks the commit, or a config at it."""


class FaultyHub(LoopbackHub):
    """A Hub with a fault for some repos. A fault's repos are `fault-N/OPERATION`."""

    elsewhere = ""

    def __init__(self, port: int = 0) -> None:
        self.seen: dict[str, Iterator[int]] = {}
        super().__init__(port)

    def answer(self, handler: Any) -> None:
        owner, _, rest = handler.about.lstrip("/").removeprefix("api/models/").partition("/")
        if not owner.startswith("fault-"):
            return super().answer(handler)
        repo_id = f"{owner}/{rest.split('/')[0].split('?')[0]}"
        with self._lock:
            count = next(self.seen.setdefault(repo_id, itertools.count()))
        fault = list(FAULTS.values())[int(owner.removeprefix("fault-"))]
        fault(Site(handler, lambda: super(FaultyHub, self).answer(handler), self.elsewhere, count, repo_id, self))


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
    """Run an operation while the Hub has a fault; return the losses and the result."""
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
    if fault in CONTRADICTS:
        right["verify"] += ["INVALID", "MISMATCH"]
    if error is None and answer not in right[operation]:
        lost.append(f"{operation} answered {answer!r}")
    lost += [f"{operation} wrote {path}" for path in laboratory.root.parent.glob("outside*")]
    return [f"{fault}: {loss}" for loss in lost], "answered" if error is None else error.kind


def trials(form: Form) -> Iterator[Trial]:
    quick = form is Form.QUICK
    os.environ.update(HF_TOKEN=TOKEN, OMP_NUM_THREADS="1")
    kinds = list(OPERATIONS)[:2] if quick else list(OPERATIONS)
    slow = {"stall", "too long a Content-Length", "an invalid Content-Length"} if quick else set()
    chosen = [(number, fault) for number, fault in enumerate(FAULTS) if fault not in slow]
    with empty_hub(FaultyHub) as (hub, _), LoopbackHub() as other:
        hub.elsewhere = other.url.replace("127.0.0.1", "localhost")
        hub.tokens[TOKEN] = set()
        with tempfile.TemporaryDirectory(dir=next(places())) as root:
            (nested := Path(root, "a", "b")).mkdir(parents=True)
            laboratory = Laboratory(hub, nested)
            pairs = [(number, fault, kind) for number, fault in chosen for kind in kinds]
            with ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
                results = list(threads.map(lambda pair: tried(laboratory, *pair), pairs))
        leaked = [request for request in other.requests if request.token is not None]
    lost = [loss for losses, _ in results for loss in losses]
    lost += [f"the token went to another host: {request.method} {request.path}" for request in leaked]
    answered = sum(outcome == "answered" for _, outcome in results)
    name = f"{len(chosen)} faults of a Hub: {', '.join(kinds)}".replace("_", " ")
    yield Trial(name, len(results), tuple(lost), f"{answered} answered, {len(results) - answered} typed errors")


if __name__ == "__main__":
    main(__doc__, trials)
