"""Coverage-guided fuzzing with atheris for a fixed time: readers, the writer, embedded archives."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from benchmarks.reliability.operations import places
from benchmarks.reliability.trials import Form, Trial, main
from tests.conftest import ROOT

TARGETS = {
    "fuzz_archives": "reader of embedded archives, fuzzed",
    "fuzz_onnxfile": "reader and writer of files, fuzzed",
    "fuzz_remote": "reader of remote files, fuzzed",
}
SECONDS = {"fuzz_archives": 270, "fuzz_onnxfile": 135, "fuzz_remote": 135}  # As much time as two, one after the other.
LONGER = 6  # Factor for the long form.
SIDE_BY_SIDE = 2


def fuzzed(target: str, seconds: int) -> Trial:
    """Fuzz for some seconds. A fuzzer ends at its first finding."""
    if importlib.util.find_spec("atheris") is None:
        return Trial(TARGETS[target], 0, note="atheris is not installed")
    options = [f"-max_total_time={seconds}", "-print_final_stats=1", "-max_len=65536"]
    command = [sys.executable, f"tests/{target}.py", *options]
    with tempfile.TemporaryDirectory(dir=next(places())) as scratch:  # A fuzzer exits without cleaning up.
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": scratch}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    match = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    lost = () if done.returncode == 0 else (done.stderr[-800:],)
    return Trial(TARGETS[target], int(match[1]) if match else 0, lost)


def trials(form: Form) -> Iterator[Trial]:
    times = LONGER if form is Form.LONG else 1
    seconds = {target: 3 if form is Form.QUICK else times * SECONDS[target] for target in TARGETS}
    with ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
        yield from threads.map(fuzzed, seconds, seconds.values())


if __name__ == "__main__":
    main(__doc__, trials)
