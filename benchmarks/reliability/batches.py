"""Batches that are killed at random moments, or one of whose exports is killed, and restarted until they are complete.

Commands and exports are forked by one server after all imports, because the start of an interpreter and the import of
PyTorch write nothing. The last run in each folder is a separate command with its own server.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import psutil

from benchmarks.reliability.operations import Laboratory
from benchmarks.reliability.trials import Trial
from tests.support import models

TASKS = {"bert": "text-classification", "gpt2": "text-generation", "vit": "image-classification"}
CLI = Path(sys.executable).with_name("optimum-cli")
LANES = os.cpu_count() or 1  # At the same time.
WARM = 3  # Runs that measure the duration of one.
LIMIT = 120.0  # Seconds; a process that has not ended by then never will.


def tiny_models(laboratory: Laboratory) -> list[str]:
    """Publish a tiny model of each architecture, and return their repo ids."""
    for kind in TASKS:
        getattr(models, kind)(laboratory.root / kind)
        laboratory.hub.add(f"batch/{kind}", laboratory.root / kind, pipeline_tag=TASKS[kind])
    return [f"batch/{kind}" for kind in TASKS]


@dataclass(frozen=True)
class Batch:
    """A batch that exports models into a folder, and can be restarted."""

    laboratory: Laboratory
    listed: Path
    out: Path

    @property
    def arguments(self) -> list[str]:
        return ["htp", "batch", "--retry-failed", str(self.listed), "-o", str(self.out)]

    @property
    def home(self) -> Path:
        return self.out.with_suffix(".home")

    @property
    def said(self) -> Path:
        return self.out.with_suffix(".log")

    def begun(self) -> Any:
        """Return a process in which the command runs."""
        self.home.mkdir(exist_ok=True)
        process = self.laboratory.context.Process(target=_command, args=(self.arguments, self.home, self.said))
        process.start()
        return process

    def processes(self, server: psutil.Process) -> list[psutil.Process]:
        """Return the forked processes of the command, including itself: they work in its home folder."""
        found = []
        for process in server.children():
            with suppress(psutil.Error):  # It has just ended.
                if Path(process.cwd()) == self.home:
                    found.append(process)
        return found

    def finish(self) -> float:
        """Run it without a fault, and return the seconds.

        Raises:
            RuntimeError: It failed, or does not end.
        """
        start, process = time.perf_counter(), self.begun()
        process.join(LIMIT)
        if process.exitcode != 0:
            process.kill()
            raise RuntimeError(f"a batch ended with {process.exitcode}: {self.said.read_text()[-2000:]}")
        return time.perf_counter() - start

    def finish_from_the_start(self) -> None:
        """Run it without a fault, in a process that is not forked."""
        subprocess.run([CLI, *self.arguments], check=True, capture_output=True, text=True, timeout=LIMIT)

    def exports(self, names: Iterable[str]) -> dict[str, dict[str, str]]:
        """Return the digests of the files of each existing export."""
        found = {}
        for name in names:
            files = (self.out / name).glob("*.onnx")
            digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
            if digests:
                found[name] = digests
        return found

    def unfinished(self, whole: dict[str, dict[str, str]]) -> list[str]:
        """Return the differences from a complete run."""
        lines = (self.out / "batch.jsonl").read_text().splitlines()
        entries = [json.loads(line) for line in lines if line.endswith("}")]  # A killed run may leave half a line.
        done = [entry["output"] for entry in entries if entry.get("state") == "done"]
        lost = [f"{name} was exported {done.count(name)} times" for name in whole if done.count(name) > 1]
        found = self.exports(whole)
        lost += [f"{name} is incomplete at the end" for name, files in whole.items() if found.get(name) != files]
        return lost + [f"{path} is left over" for path in self.out.rglob(".optimum-htp-*")]


def killed_batches(laboratory: Laboratory, names: Sequence[str], times: int, size: str, deadline: float) -> Trial:
    """Kill batches of these models a number of times, or for a number of seconds."""
    listed = laboratory.root / "models.txt"
    listed.write_text("\n".join(names))

    def batch(name: str) -> Batch:
        return Batch(laboratory, listed, laboratory.root / name)

    undisturbed = [batch(f"undisturbed-{number}") for number in range(1 + WARM)]
    seconds = statistics.median([one.finish() for one in undisturbed][1:])
    whole, until = undisturbed[0].exports(names), time.monotonic() + deadline
    if whole.keys() != set(names):
        raise RuntimeError(f"a batch of {', '.join(names)} wrote {', '.join(whole) or 'nothing'}")

    def lane(number: int) -> tuple[list[str], int, int]:
        draw, lost, mine = random.Random(number), [], batch(f"lane-of-batches-{number}")
        kills, ended, left = 0, 0, len(names)
        while kills < len(range(number, times, LANES)) and time.monotonic() < until:
            process = mine.begun()
            server = psutil.Process(psutil.Process(process.pid).ppid())
            time.sleep(draw.uniform(0, 1.1 * seconds * left / len(names)))
            kills, ended = kills + 1, ended + (not process.is_alive())
            running = mine.processes(server)
            if running:
                with suppress(psutil.NoSuchProcess):
                    draw.choice(running).kill()
            else:  # It was just forked, or has ended.
                process.kill()
            process.join(LIMIT)
            _, going_on = psutil.wait_procs(running, 20)
            if going_on:
                lost.append(f"{len(going_on)} processes go on after a kill")
                for stray in going_on:
                    stray.kill()
            found = mine.exports(names)
            lost += [f"{name} is torn" for name, files in found.items() if files != whole.get(name)]
            left = len(names) - len(found)
            if not left:
                mine.finish()
                lost += mine.unfinished(whole)
                shutil.rmtree(mine.out)
                left = len(names)
        mine.finish_from_the_start()
        return lost + mine.unfinished(whole), kills, ended

    with ThreadPoolExecutor(LANES) as threads:
        results = list(threads.map(lane, range(LANES)))
    kills, ended = (sum(counts) for counts in list(zip(*results, strict=True))[1:])
    name = f"batch, {len(names)} {size}, killed (it, or a process of its) and begun again"
    losses = tuple(loss for lost, *_ in results for loss in lost)
    return Trial(name, kills, losses, f"{ended} had ended before" if ended else "")


def _command(arguments: list[str], home: Path, said: Path) -> None:
    os.chdir(home)
    opened = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(opened, descriptor)
    # The server that forked this process forks its exports; a new server would have to import everything again.
    forkserver._forkserver.ensure_running = lambda: None  # type: ignore[attr-defined]
    from optimum.commands.optimum_cli import main

    sys.argv = ["optimum-cli", *arguments]
    main()
