"""Exporting a model from a Hub with `optimum-cli export htp`, against `optimum-cli export onnx`.

    python -m benchmarks.exports [--quick] [--json]

Each is the real command in a new process with an empty cache, in turn. Memory is the peak as measured by the
operating system; requests are counted by the Hub.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import minilm
from benchmarks.pairs import empty_hub, traffic
from benchmarks.rows import Row, main, paired, single
from tests.support.environments import python_of_users
from tests.support.hub import LoopbackHub

CLI = (python_of_users(), "-m", "optimum.commands.optimum_cli", "export")


@dataclass(frozen=True)
class Cost:
    seconds: float
    mib: float
    requests: int


def export(hub: LoopbackHub, home: Path, kind: str, *arguments: str) -> Cost:
    """Run one export with an empty cache."""
    shutil.rmtree(home, ignore_errors=True)
    with traffic(hub) as sent:
        start = time.perf_counter()
        process = subprocess.Popen(
            [*CLI, kind, *arguments, str(home / "out")],
            env={**os.environ, "HF_HOME": str(home / "cache")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"export {kind} {' '.join(arguments)} ended with {process.returncode}")
    return Cost(seconds, usage.ru_maxrss / 1024, sent.requests)


def rows(quick: bool) -> Iterator[Row]:
    with empty_hub() as (hub, home):
        from tests.support import models

        minilm.served(hub, home)
        exported = [("MiniLM (90 MB)", minilm.REPO, minilm.TASK)]
        if not quick:
            task = "text2text-generation-with-past"
            hub.add("bench/t5", models.t5(home / "t5"), pipeline_tag=task, library_name="transformers")
            exported.append(("a tiny T5 (three files)", "bench/t5", task))
        against = "optimum-cli export onnx"
        for name, model, task in exported:
            arguments = ("--model", model, "--task", task)
            costs: dict[str, list[Cost]] = {"htp": [], "onnx": []}
            for index in range(1 if quick else 3):
                for kind in ("htp", "onnx") if index % 2 else ("onnx", "htp"):
                    costs[kind].append(export(hub, home / "work", kind, *arguments))
            ours, theirs = costs["htp"], costs["onnx"]
            pairs = [(one.seconds, other.seconds) for one, other in zip(ours, theirs, strict=True)]
            yield paired(f"export {name}", pairs, against, target=1.1)
            memory = [(one.mib, other.mib) for one, other in zip(ours, theirs, strict=True)]
            yield paired(f"export {name}: peak memory", memory, against, unit="MiB", target=1.1)
            yield single(
                f"export {name}: requests", ours[0].requests, theirs[0].requests, against, unit="requests", target=1.0
            )


if __name__ == "__main__":
    main(__doc__, rows)
