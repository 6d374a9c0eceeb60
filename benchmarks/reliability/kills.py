"""Processes that are killed at random moments: what they wrote to is old or new, and the next run cleans up.

A process is forked, begins, and gets SIGKILL at a moment drawn from the time that its work takes. Files of 300 MB take
long enough for the kill to fall into their writing; tiny ones show what stands before and after it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from benchmarks.pairs import empty_hub
from benchmarks.reliability.operations import REPO, Laboratory, Operation, places
from benchmarks.reliability.trials import Form, Trial, main
from tests.support import models

ON_FILES = ("inject", "strip", "tag", "embed", "unembed", "extract")
TIMES = 300  # each
PATIENCE = {"file": 50.0, "export": 90.0, "batch": 90.0}  # seconds for each, in half an hour for all
LANES = os.cpu_count() or 1  # at a time
SETTLED = 4  # of so many kills, one is followed by a run that is not killed
CLI = Path(sys.executable).with_name("optimum-cli")


def killed(laboratory: Laboratory, operation: Operation, times: int, size: str, patience: float) -> Trial:
    """Kill an operation at random moments, so many times or for so many seconds."""
    draw, until = random.Random(0), time.monotonic() + patience
    moments = [draw.uniform(0, 1.1 * operation.seconds) for _ in range(times)]

    def lane(number: int) -> tuple[list[str], int, int]:
        lost, done, ended, place = [], 0, 0, laboratory.root / f"lane-{number}"
        for turn in range(number, times, LANES):
            if time.monotonic() > until:
                break
            done += 1
            operation.copy(place)
            running = laboratory.started(operation.name, place)
            time.sleep(moments[turn])
            ended += running.killed()
            lost += [f"killed after {moments[turn] * 1e3:.1f} ms: {loss}" for loss in operation.torn(place)]
            if turn // LANES % SETTLED == 0:
                fault = laboratory.started(operation.name, place).fault()
                lost += [] if fault is None else [f"the next run failed: {fault}"]
                lost += [f"after the next run {loss}" for loss in operation.unfinished(place)]
        return lost, done, ended

    with ThreadPoolExecutor(LANES) as threads:
        results = list(threads.map(lane, range(LANES)))
    done, ended = (sum(counts) for counts in list(zip(*results, strict=True))[1:])
    note = f"{ended} had ended before" if ended else ""
    name = f"{operation.name}, {size}, killed at a random moment"
    return Trial(name, done, tuple(loss for lost, *_ in results for loss in lost), note)


def tiny_models(laboratory: Laboratory, root: Path) -> list[str]:
    """Publish a tiny model of each kind, and return their repo ids."""
    for kind in TASKS:
        getattr(models, kind)(root / kind)
        laboratory.hub.add(f"batch/{kind}", root / kind, pipeline_tag=TASKS[kind])
    return [f"batch/{kind}" for kind in TASKS]


def killed_batches(root: Path, names: Sequence[str], times: int, size: str, patience: float) -> Trial:
    """Kill batches, or what exports for them, and begin them again in the same folder until they are done."""
    listed = root / "models.txt"
    listed.write_text("\n".join(names))
    command = [CLI, "htp", "batch", "--retry-failed", listed]
    started = time.perf_counter()
    _run([*command, root / "undisturbed"])
    seconds, whole = time.perf_counter() - started, _exports(root / "undisturbed", names)
    until = time.monotonic() + patience

    def lane(number: int) -> tuple[list[str], int]:
        draw, lost, out = random.Random(number), [], root / f"out-{number}"
        kills = 0
        while kills < len(range(number, times, LANES)) and time.monotonic() < until:
            process = subprocess.Popen([*command, out], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(draw.uniform(0, 1.1 * seconds))
            below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            victim = draw.choice([psutil.Process(process.pid), *below]) if below else process
            victim.kill()
            kills += 1
            process.wait()
            psutil.wait_procs(below, 20)
            found = {name: files for name, files in _exports(out, names).items() if files}
            lost += [f"{name} is torn" for name, files in found.items() if files != whole.get(name)]
            if found.keys() == whole.keys():
                lost += _finished(command, out, whole)
                shutil.rmtree(out)
        return lost + _finished(command, out, whole), kills

    with ThreadPoolExecutor(LANES) as threads:
        results = list(threads.map(lane, range(LANES)))
    name = f"batch, {len(names)} {size}, killed (it, or a process of its) and begun again"
    losses = tuple(loss for lost, _ in results for loss in lost)
    return Trial(name, sum(kills for _, kills in results), losses)


TASKS = {"bert": "text-classification", "gpt2": "text-generation", "vit": "image-classification"}


def _run(command: list[object]) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)


def _exports(out: Path, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the digests of the files of each export that is there."""
    return {
        name: {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (out / name).glob("*.onnx")}
        for name in names
        if (out / name).is_dir()
    }


def _finished(command: list[object], out: Path, whole: dict[str, dict[str, str]]) -> list[str]:
    """Run a batch to its end, and return what is not as it is to be."""
    _run([*command, out])
    entries = [json.loads(line) for line in (out / "batch.jsonl").read_text().splitlines() if line.endswith("}")]
    done = [entry["output"] for entry in entries if entry.get("state") == "done"]
    lost = [f"{name} was exported {done.count(name)} times" for name in whole if done.count(name) > 1]
    found = _exports(out, whole)
    lost += [f"{name} is not whole at the end" for name, files in whole.items() if found.get(name) != files]
    return lost + [f"{path} is left over" for path in out.rglob(".optimum-htp-*")]


def trials(form: Form) -> Iterator[Trial]:
    quick = form is Form.QUICK
    times, sizes = (4, {"tiny": 0}) if quick else (TIMES, {"tiny": 0, "300 MB": 300})
    patience = dict.fromkeys(PATIENCE, math.inf) if form is Form.LONG else PATIENCE
    os.environ["OMP_NUM_THREADS"] = "1"
    with empty_hub() as (hub, _):  # one for all: what is forked knows its address from the beginning
        for size, megabytes in sizes.items():
            with tempfile.TemporaryDirectory(dir=next(places())) as name:
                laboratory = Laboratory(hub, root := Path(name), megabytes)
                for kind in ON_FILES:
                    yield killed(laboratory, laboratory.operation(kind), times, size, patience["file"])
                yield killed(laboratory, laboratory.operation("export"), times, size, patience["export"])
                names = [REPO] if megabytes else tiny_models(laboratory, root)[: 1 if quick else None]
                yield killed_batches(root, names, 2 if quick else times, size, patience["batch"])


if __name__ == "__main__":
    main(__doc__, trials)
