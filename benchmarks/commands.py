"""The time of commands that do not need PyTorch, against `htp info`, and of our help against Optimum's.

Each runs in a new process, in turn, on a BERT of 90 MB whose model is on a Hub on this machine. The cache is empty
each time, so `verify` and `inject` download its config and the header of its weights.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import minilm
from benchmarks.pairs import empty_hub, interleaved
from benchmarks.rows import Row, main, paired
from tests.support.environments import python_of_users


def seconds(home: Path, *arguments: str) -> float:
    """Return the time of a command with an empty cache."""
    cache = home / "commands"
    shutil.rmtree(cache, ignore_errors=True)
    start = time.perf_counter()
    subprocess.run(
        [python_of_users(), "-m", "optimum.commands.optimum_cli", *arguments],
        env={**os.environ, "HF_HOME": str(cache)},
        capture_output=True,
        check=True,
    )
    return time.perf_counter() - start


# The pairs of commands, and the targets.
COMPARED = (
    ("htp verify", "htp info", 4.0),
    ("htp inject", "htp info", 4.0),
    ("htp strip", "htp info", None),
    ("htp info", "--help", None),
    ("export htp --help", "export onnx --help", 1.0),
)


def options_alone(runs: int) -> Row:
    """Compare parsing and formatting of all options with those of Optimum's options alone."""
    from optimum.commands.export.onnx import parse_args_onnx

    from optimum_htp.cli.export import HTPExportCommand

    def helped(declare: Callable[[ArgumentParser], object]) -> str:
        parser = ArgumentParser("optimum-cli export")
        declare(parser)
        return parser.format_help()

    pairs = interleaved(lambda: helped(HTPExportCommand.parse_args), lambda: helped(parse_args_onnx), runs)
    return paired("export htp --help: its options alone", pairs, "export onnx --help")


def rows(quick: bool) -> Iterator[Row]:
    with empty_hub() as (hub, home):
        file = shutil.copy(minilm.served(hub, home).file(), home / "model.onnx")
        commands = {
            "htp info": ("htp", "info", file),
            "htp verify": ("htp", "verify", file),
            "htp inject": ("htp", "inject", file, "--model", minilm.REPO),
            "htp strip": ("htp", "strip", file, "--output", str(home / "bare.onnx")),
            "export onnx --help": ("export", "onnx", "--help"),
            "export htp --help": ("export", "htp", "--help"),
            "--help": ("--help",),
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for index in range((2 if quick else 9) + 1):
            for name, command in sorted(commands.items(), reverse=index % 2 == 1):
                times[name].append(seconds(home, *command))
        for ours, theirs, target in COMPARED:
            pairs = [*zip(times[ours][1:], times[theirs][1:], strict=True)]
            peer = "optimum-cli --help" if theirs == "--help" else theirs
            yield paired(ours, pairs, peer, target=target)
        yield options_alone(9 if quick else 41)


if __name__ == "__main__":
    main(__doc__, rows)
