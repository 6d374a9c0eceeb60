"""Processes that are killed at random moments: what they wrote to is old or new, and the next run cleans up.

A process is forked, begins, and gets SIGKILL at a moment drawn from the time that its work takes. Files of 300 MB take
long enough for the kill to fall into their writing; tiny ones show what stands before and after it.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from benchmarks.pairs import empty_hub
from benchmarks.reliability.operations import Laboratory, Operation, places
from benchmarks.reliability.trials import Trial, main
from tests.support import models

ON_FILES = ("inject", "strip", "tag", "embed", "unembed", "extract")
LANES = 2  # at a time
SETTLED = 10  # of so many kills of a large file, one is followed by a run that is not killed
CLI = Path(sys.executable).with_name("optimum-cli")


def killed(laboratory: Laboratory, operation: Operation, times: int, size: str, *, settled: int) -> Trial:
    """Kill an operation at random moments."""
    draw = random.Random(0)
    moments = [draw.uniform(0, 1.1 * operation.seconds) for _ in range(times)]

    def lane(number: int) -> tuple[list[str], int]:
        lost, ended, place = [], 0, laboratory.root / f"lane-{number}"
        for turn in range(number, times, LANES):
            operation.copy(place)
            running = laboratory.started(operation.name, place)
            time.sleep(moments[turn])
            ended += running.killed()
            lost += [f"killed after {moments[turn] * 1e3:.1f} ms: {loss}" for loss in operation.torn(place)]
            if turn % settled == number:
                fault = laboratory.started(operation.name, place).fault()
                lost += [] if fault is None else [f"the next run failed: {fault}"]
                lost += [f"after the next run {loss}" for loss in operation.unfinished(place)]
        return lost, ended

    with ThreadPoolExecutor(LANES) as threads:
        results = list(threads.map(lane, range(LANES)))
    ended = sum(count for _, count in results)
    note = f"{ended} had ended before" if ended else ""
    name = f"{operation.name}, {size}, killed at a random moment"
    return Trial(name, times, tuple(loss for lost, _ in results for loss in lost), note)


def killed_batches(laboratory: Laboratory, root: Path, times: int) -> Trial:
    """Kill batches, or what exports for them, and begin them again in the same folder until they are done."""
    names = []
    for kind in ("bert", "gpt2", "vit"):
        getattr(models, kind)(root / kind)
        names.append(laboratory.hub.add(f"batch/{kind}", root / kind, pipeline_tag=TASKS[kind]).repo_id)
    listed = root / "models.txt"
    listed.write_text("\n".join(names))
    command = [CLI, "htp", "batch", "--retry-failed", listed]
    started = time.perf_counter()
    _run([*command, root / "undisturbed"])
    seconds, whole = time.perf_counter() - started, _exports(root / "undisturbed")

    def lane(number: int) -> list[str]:
        draw, lost, out = random.Random(number), [], root / f"out-{number}"
        kills = 0
        while kills < times // LANES:
            process = subprocess.Popen([*command, out], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(draw.uniform(0, 1.1 * seconds))
            below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            victim = draw.choice([psutil.Process(process.pid), *below]) if below else process
            victim.kill()
            kills += 1
            process.wait()
            psutil.wait_procs(below, 20)
            found = {name: files for name, files in _exports(out).items() if files}
            lost += [f"{name} is torn" for name, files in found.items() if files != whole.get(name)]
            if found.keys() == whole.keys():
                lost += _finished(command, out, whole)
                shutil.rmtree(out)
        return lost + _finished(command, out, whole)

    with ThreadPoolExecutor(LANES) as threads:
        losses = [loss for lost in threads.map(lane, range(LANES)) for loss in lost]
    return Trial("batch of three tiny models, killed (it, or a process of its) and begun again", times, tuple(losses))


TASKS = {"bert": "text-classification", "gpt2": "text-generation", "vit": "image-classification"}


def _run(command: list[object]) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)


def _exports(out: Path) -> dict[str, dict[str, bytes]]:
    """Return the files of each export that is there."""
    return {
        f"batch/{folder.name}": {path.name: path.read_bytes() for path in folder.glob("*.onnx")}
        for folder in sorted(out.glob("batch/*"))
        if folder.is_dir() and not folder.name.startswith(".")
    }


def _finished(command: list[object], out: Path, whole: dict[str, dict[str, bytes]]) -> list[str]:
    """Run a batch to its end, and return what is not as it is to be."""
    _run([*command, out])
    entries = [json.loads(line) for line in (out / "batch.jsonl").read_text().splitlines() if line.endswith("}")]
    done = [entry["output"] for entry in entries if entry.get("state") == "done"]
    lost = [f"{name} was exported {done.count(name)} times" for name in whole if done.count(name) > 1]
    lost += [f"{name} is not whole at the end" for name, files in whole.items() if _exports(out).get(name) != files]
    return lost + [f"{path} is left over" for path in out.rglob(".optimum-htp-*")]


def trials(quick: bool) -> Iterator[Trial]:
    times, sizes = (6, {"tiny": 0}) if quick else (300, {"tiny": 0, "300 MB": 300})
    os.environ["OMP_NUM_THREADS"] = "1"
    for size, megabytes in sizes.items():
        with empty_hub() as (hub, _), tempfile.TemporaryDirectory(dir=next(places())) as root:
            laboratory = Laboratory(hub, Path(root), megabytes)
            for name in (*ON_FILES, "export"):
                few = times if not megabytes or name != "export" else times // 6
                operation = laboratory.operation(name)
                yield killed(laboratory, operation, few, size, settled=SETTLED if megabytes else 1)
            if not megabytes:
                yield killed_batches(laboratory, Path(root), 2 if quick else times)


if __name__ == "__main__":
    main(__doc__, trials)
