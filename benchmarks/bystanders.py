"""The cost of the plugin for other code: the same work with the plugin and with `OPTIMUM_HTP_DISABLE=1`.

    python -m benchmarks.bystanders [--quick] [--json]

Each figure comes from new processes, with and without the plugin in turn: the start of the interpreter and of the
command line, loads of an ordinary folder by Optimum and transformers, and the hooks of directly named classes.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks import minilm
from benchmarks.pairs import empty_hub
from benchmarks.rows import Row, main, paired, single
from tests.support.environments import python_of_users

WITHOUT = "the same with OPTIMUM_HTP_DISABLE=1"
LOADS = 11  # Loads of each kind in a process.
CALLS = 501
HOOK = 20e-6  # Seconds that a hook may add to a call for other files.

STARTS = {
    "interpreter": ("-c", "pass"),
    "optimum-cli export onnx --help": ("-m", "optimum.commands.optimum_cli", "export", "onnx", "--help"),
}
CHILD = f"""
import gc, json, sys, time
from optimum.onnxruntime import ORTModelForFeatureExtraction
from transformers import AutoConfig, AutoTokenizer
gc.collect()
gc.freeze()
gc.disable()
times = {{}}
for loader in (AutoConfig, AutoTokenizer, ORTModelForFeatureExtraction):
    for _ in range({LOADS}):
        gc.collect()
        start = time.perf_counter()
        loaded = loader.from_pretrained(sys.argv[1])
        times.setdefault(loader.__name__, []).append(time.perf_counter() - start)
print(json.dumps({{name: sorted(each)[len(each) // 2] for name, each in times.items()}}))
"""
PROBE = f"""
import gc, sys, time
from transformers import PretrainedConfig
class Probe(PretrainedConfig):
    @classmethod
    def get_config_dict(cls, *names, **options):
        return {{}}, {{}}
    @classmethod
    def from_dict(cls, content, **options):
        return content
gc.disable()
times = []
for _ in range({CALLS}):
    start = time.perf_counter()
    Probe.from_pretrained(sys.argv[1])
    times.append(time.perf_counter() - start)
print(sorted(times)[len(times) // 2])
"""
START = "import subprocess, sys, time; s = time.perf_counter(); subprocess.run(sys.argv[1:], capture_output=True, \
check=True); print(time.perf_counter() - s)"


def measured(arguments: tuple[str, ...], disabled: bool) -> str:
    """Return the output of a process with or without the plugin."""
    switch = {"OPTIMUM_HTP_DISABLE": "1"} if disabled else {}
    done = subprocess.run(
        [python_of_users(), *arguments], env={**os.environ, **switch}, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1]


def both(arguments: tuple[str, ...], index: int) -> tuple[str, str]:
    """Return the output with and without the plugin; the order alternates."""
    order = (False, True) if index % 2 else (True, False)
    printed = {disabled: measured(arguments, disabled) for disabled in order}
    return printed[False], printed[True]


def starts(rounds: int) -> Iterator[Row]:
    for name, command in STARTS.items():
        pairs = []
        for index in range(rounds + 2):
            with_it, without = both(("-c", START, str(python_of_users()), *command), index)
            pairs.append((float(with_it), float(without)))
        yield paired(f"{name}, with the plugin", pairs[2:], WITHOUT, target=1.05)


def imports(runs: int) -> Row:
    """Return the share of our modules in the import of a class of Optimum, as measured by the interpreter."""
    code = "from optimum.onnxruntime import ORTModelForFeatureExtraction"
    shares = []
    for _ in range(runs):
        command = [python_of_users(), "-X", "importtime", "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows = [line.removeprefix("import time:").split("|") for line in done.stderr.splitlines() if "|" in line]
        own = {name.strip(): int(time) for time, _, name in rows if time.strip().isdigit()}
        ours = sum(time for name, time in own.items() if name.partition(".")[0].startswith("optimum_htp"))
        shares.append((ours / 1e6, sum(own.values()) / 1e6))
    ours_s, all_s = min(shares)  # A run that compiles takes longer.
    return single("our modules at the import of an ORTModel", ours_s, all_s, "the whole import", unit="s", target=0.01)


def loads(folder: Path, rounds: int) -> Iterator[Row]:
    found: dict[str, list[tuple[float, float]]] = {}
    for index in range(rounds):
        mine, theirs = map(json.loads, both(("-c", CHILD, str(folder)), index))
        for name in mine:
            found.setdefault(name, []).append((mine[name], theirs[name]))
    for name, pairs in found.items():
        yield paired(f"{name} of an ordinary folder, with the plugin", pairs, WITHOUT, target=1.05)


def hooks(folder: Path, rounds: int) -> Iterator[Row]:
    """Return the time that the hook of a directly named class adds to a call that does nothing else."""
    for what, name in (("an ordinary folder", str(folder)), ("a repo's name", "org/name")):
        pairs = [both(("-c", PROBE, name), index) for index in range(rounds)]
        added = min(float(mine) - float(theirs) for mine, theirs in pairs)
        yield single(f"a direct class of {what}, what the hook adds", added, HOOK, "20 µs", unit="s", target=1.0)


def rows(quick: bool) -> Iterator[Row]:
    rounds = 2 if quick else 6
    with empty_hub() as (hub, home):
        folder = minilm.served(hub, home).with_configs()
        yield from starts(rounds)
        yield imports(1 if quick else 4)
        yield from hooks(folder, 1 if quick else rounds)
        yield from loads(folder, 1 if quick else rounds)


if __name__ == "__main__":
    main(__doc__, rows)
