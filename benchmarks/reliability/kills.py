"""Processes that are killed at random moments: files must be old or new, and the next run cleans up.

A process is forked, starts, and gets SIGKILL at a random moment within the time of its work. Files of 300 MB take
long enough for a kill during writing; tiny ones test the moments before and after.
"""

from __future__ import annotations

import math
import os
import random
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.pairs import empty_hub
from benchmarks.reliability.batches import LANES, killed_batches, tiny_models
from benchmarks.reliability.operations import REPO, Laboratory, Operation, places
from benchmarks.reliability.trials import Form, Trial, main

ON_FILES = ("inject", "strip", "tag", "embed", "unembed", "extract")
TIMES = 300  # each
PATIENCE = {"file": 50.0, "export": 120.0, "batch": 120.0}  # seconds for each, in half an hour for all
SETTLED = 8  # after this number of kills, one run is not killed


def killed(laboratory: Laboratory, operation: Operation, times: int, size: str, deadline: float) -> Trial:
    """Kill an operation at random moments, so many times or for so many seconds."""
    draw, until = random.Random(0), time.monotonic() + deadline
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


def trials(form: Form) -> Iterator[Trial]:
    quick = form is Form.QUICK
    times, sizes = (4, {"tiny": 0}) if quick else (TIMES, {"tiny": 0, "300 MB": 300})
    deadline = dict.fromkeys(PATIENCE, math.inf) if form is Form.LONG else PATIENCE
    os.environ["OMP_NUM_THREADS"] = "1"
    with empty_hub() as (hub, _):  # one for all: forked processes have its address
        for size, megabytes in sizes.items():
            with tempfile.TemporaryDirectory(dir=next(places())) as name:
                laboratory = Laboratory(hub, Path(name), megabytes)
                for kind in ON_FILES:
                    yield killed(laboratory, laboratory.operation(kind), times, size, deadline["file"])
                yield killed(laboratory, laboratory.operation("export"), times, size, deadline["export"])
                names = [REPO] if megabytes else tiny_models(laboratory)[: 1 if quick else None]
                yield killed_batches(laboratory, names, times, size, deadline["batch"])


if __name__ == "__main__":
    main(__doc__, trials)
