"""What the commands take that do not need PyTorch, against `htp info`, and our help against Optimum's.

    python -m benchmarks.commands

Each runs in a process of its own, one after the other in turn, on a BERT of 90 MB whose model is on a Hub on this
machine. The cache is empty each time, so `verify` and `inject` fetch its config and the head of its weights.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.pairs import empty_hub, shown

ROUNDS = 12
REPO = "bench/minilm"


def seconds(home: Path, *arguments: str) -> float:
    """Return how long a command takes with an empty cache."""
    cache = home / "commands"
    shutil.rmtree(cache, ignore_errors=True)
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "optimum.commands.optimum_cli", *arguments],
        env={**os.environ, "HF_HOME": str(cache)},
        capture_output=True,
        check=True,
    )
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    with empty_hub() as (hub, home):
        from optimum_htp import HTPExporter
        from tests.support import models

        hub.add(REPO, models.minilm(), pipeline_tag="sentence-similarity")
        HTPExporter().export(REPO, home / "out", task="feature-extraction", hierarchy=False)
        file = str(home / "out" / "model.onnx")
        commands = {
            "htp info": ("htp", "info", file),
            "htp verify": ("htp", "verify", file),
            "htp inject": ("htp", "inject", file, "--model", REPO),
            "htp info --json": ("htp", "info", file, "--json"),
            "export onnx --help": ("export", "onnx", "--help"),
            "export htp --help": ("export", "htp", "--help"),
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for index in range(rounds + 1):
            for name, command in sorted(commands.items(), reverse=index % 2 == 1):
                times[name].append(seconds(home, *command))
        for name, each in times.items():
            print(f"{name:24} {statistics.median(each[1:]) * 1e3:7.0f} ms")
        for ours, theirs in (
            ("htp verify", "htp info"),
            ("htp inject", "htp info"),
            ("export htp --help", "export onnx --help"),
        ):
            print(shown(f"{ours} / {theirs}", [*zip(times[ours][1:], times[theirs][1:], strict=True)]))


if __name__ == "__main__":
    main()
