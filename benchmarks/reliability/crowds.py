"""Many processes and threads on one file, one cache, one output; and one process with ten thousand loads."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from benchmarks.pairs import empty_hub
from benchmarks.reliability.operations import Laboratory, places
from benchmarks.reliability.trials import Form, Trial, main
from tests.conftest import ROOT

CROWD = 16
LOADS = """
import sys
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer
sys.stdin.readline()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = ORTModelForSequenceClassification.from_pretrained(sys.argv[1])
print(model(**tokenizer("the cat", return_tensors="pt")).logits.tolist())
"""
MEBIBYTE = 1 << 20


def processes_that_write(laboratory: Laboratory, kind: str, rounds: int) -> Trial:
    """Run many processes that change one file in the same way, or export to one folder."""
    operation, place, lost, refused = laboratory.operation(kind), laboratory.root / "crowd", [], {}
    for _ in range(rounds):
        operation.copy(place)
        running = [laboratory.started(kind, place) for _ in range(CROWD)]
        for fault in (one.fault() for one in running):
            if fault is not None:
                refused[fault.kind] = refused.get(fault.kind, 0) + 1
                lost += [] if fault.is_typed else [str(fault)]
        lost += operation.unfinished(place)
    note = ", ".join(f"{count} {kind}" for kind, count in sorted(refused.items()))
    return Trial(f"{CROWD} processes {kind} at once", rounds * CROWD, tuple(lost), note)


def processes_that_load(root: Path, file: Path, rounds: int, name: str) -> Trial:
    """Run many processes that load one file at the same time, with a shared empty home."""
    lost: list[str] = []
    for turn in range(rounds):
        home = root / f"home-{name.split()[-1]}-{turn}"
        running = [
            subprocess.Popen(
                [sys.executable, "-c", LOADS, str(file)],
                cwd=ROOT,
                env={**os.environ, "HF_HOME": str(home)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(CROWD)
        ]
        with ThreadPoolExecutor(CROWD) as threads:
            said = list(threads.map(lambda process: process.communicate("go\n"), running))
        answers = {stdout for stdout, _ in said}
        lost += [stderr.strip().splitlines()[-1] for stdout, stderr in said if not stdout]
        lost += [f"{len(answers)} different answers"] if len(answers) > 1 else []
        lost += [f"{path} is left over" for path in home.rglob("*.incomplete")]
    return Trial(f"{CROWD} processes load at once, {name}", rounds * CROWD, tuple(lost))


def threads_that_load(file: Path, rounds: int) -> Trial:
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoTokenizer

    def load(_: int) -> Any:
        tokenizer = AutoTokenizer.from_pretrained(file)
        model = ORTModelForSequenceClassification.from_pretrained(file)
        return model(**tokenizer("the cat", return_tensors="pt")).logits.tolist()

    expected = load(0)
    with ThreadPoolExecutor(CROWD) as threads:
        futures = [threads.submit(load, index) for index in range(rounds * CROWD)]
    lost = [str(fault) for fault in (future.exception() for future in futures) if fault is not None]
    lost += ["another answer" for future in futures if not future.exception() and future.result() != expected]
    return Trial(f"{CROWD} threads load at once", len(futures), tuple(lost))


def threads_that_write(laboratory: Laboratory, rounds: int) -> Trial:
    """Run threads of one process that stamp one file, each with its own key: each write succeeds or is rejected."""
    from optimum_htp.errors import FileChangedError
    from optimum_htp.onnxfile import read_metadata, rewrite_model

    path = laboratory.root / "threads.onnx"
    path.write_bytes((laboratory.root / "stamped" / "out" / "model.onnx").read_bytes())
    lost, refused = [], 0

    def write(number: int) -> int:
        try:
            rewrite_model(path, metadata={"number": str(number)})
        except FileChangedError:
            return 1
        return 0

    with ThreadPoolExecutor(CROWD) as threads:
        futures = [threads.submit(write, number) for number in range(rounds * CROWD)]
    for future in futures:
        if (fault := future.exception()) is not None:
            lost.append(f"{type(fault).__name__}: {fault}")
        else:
            refused += future.result()
    if not read_metadata(path).get("number", "").isdigit():
        lost.append("the file has no number")
    lost += [f"{left.name} is left over" for left in laboratory.root.glob(".threads*")]
    return Trial(f"{CROWD} threads write one file", len(futures), tuple(lost), f"{refused} reported a change")


def loads_without_end(times: int, load: Callable[[], object], name: str) -> Trial:
    """Load repeatedly: memory and descriptors must stay as after the first tenth."""
    process, lost = psutil.Process(), []
    for turn in range(times):
        load()
        if turn == times // 10:
            gc.collect()
            memory, descriptors = process.memory_info().rss, process.num_fds()
    gc.collect()
    more, descriptors = process.memory_info().rss - memory, process.num_fds() - descriptors
    if more > MEBIBYTE * max(0.5, 0.002 * times):  # The allocator keeps some pages, and a few bytes per load.
        lost.append(f"memory grew by {more / MEBIBYTE:.1f} MiB")
    if descriptors > 0:
        lost.append(f"{descriptors} descriptors stayed open")
    note = f"{more / MEBIBYTE:+.1f} MiB, {descriptors:+d} descriptors"
    return Trial(f"{name} in one process", times, tuple(lost), note)


def trials(form: Form) -> Iterator[Trial]:
    quick = form is Form.QUICK
    os.environ["OMP_NUM_THREADS"] = "1"
    with empty_hub() as (hub, _), tempfile.TemporaryDirectory(dir=next(places())) as name:
        root = Path(name)
        laboratory = Laboratory(hub, root)
        for kind in ("inject",) if quick else ("inject", "strip", "tag", "embed", "extract", "export"):
            yield processes_that_write(laboratory, kind, 1 if quick or kind == "export" else 6)
        stamped = root / "stamped" / "out" / "model.onnx"
        if not quick:
            bare = root / "bare" / "model.onnx"
            yield processes_that_load(root, bare, 1, "from the Hub, with an empty cache")
            yield processes_that_load(root, stamped, 1, "from the file, with an empty home")
        yield threads_that_load(stamped, 1 if quick else 20)
        yield threads_that_write(laboratory, 2 if quick else 60)

        from optimum.onnxruntime import ORTModelForSequenceClassification
        from transformers import AutoTokenizer

        from optimum_htp.onnxfile import read_metadata

        times = 300 if quick else 10_000
        yield loads_without_end(times, lambda: read_metadata(stamped), "records read")
        yield loads_without_end(times // 4, lambda: AutoTokenizer.from_pretrained(stamped), "tokenizers loaded")
        yield loads_without_end(
            times, lambda: ORTModelForSequenceClassification.from_pretrained(stamped), "models loaded"
        )


if __name__ == "__main__":
    main(__doc__, trials)
