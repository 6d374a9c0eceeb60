"""Comparing two files module by module, against running both with every value as an output.

    python -m benchmarks.comparing [--quick] [--json]

Theirs is what one writes by hand: onnx.load, an output for every value, two sessions, numpy.allclose. Each runs in a
process of its own, in turn, on MiniLM (90 MB) and a copy of it; memory is the peak above what there was after imports.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.pairs import empty_hub, forget_peak, peak_kilobytes
from benchmarks.rows import Row, main, paired, single


def ours(one: Path, other: Path) -> None:
    from optimum_htp import compare_models

    assert not compare_models(one, other).exceeds


def by_hand(one: Path, other: Path) -> None:
    import numpy as np
    import onnx
    import onnxruntime

    values = []
    for path in (one, other):
        model = onnx.load(path)
        known = {value.name for value in model.graph.output}
        model = onnx.shape_inference.infer_shapes(model)
        for node in model.graph.node:
            if node.op_type != "Constant":
                model.graph.output.extend(
                    onnx.ValueInfoProto(name=name) for name in node.output if name and name not in known
                )
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_inputs()]
        feeds = {name: np.ones((2, 16), np.int64) for name in names}
        values.append(session.run(None, feeds))
    assert all(np.allclose(mine, theirs) for mine, theirs in zip(*values, strict=True))


WAYS = {"ours": ours, "by_hand": by_hand}


def measure(way: str, one: Path, other: Path) -> None:
    """Run one way in this process and print what it cost."""
    import onnx  # noqa: F401 - what both have, before the measurement
    import onnxruntime  # noqa: F401

    import optimum_htp.modules.comparison.compare  # noqa: F401

    before, start = forget_peak(), time.perf_counter()
    WAYS[way](one, other)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "mib": (peak_kilobytes() - before) / 1024}))


def rows(quick: bool) -> Iterator[Row]:
    with empty_hub() as (hub, home):
        from optimum_htp import HTPExporter
        from tests.support import models

        hub.add("bench/minilm", models.minilm(), pipeline_tag="sentence-similarity")
        file = HTPExporter().export("bench/minilm", home / "out", task="feature-extraction").files[0]
        copy = Path(shutil.copy(file, home / "copy.onnx"))
        costs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(2 if quick else 4):
            for way in WAYS:
                command = [sys.executable, "-m", "benchmarks.comparing", "--measure", way, str(file), str(copy)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                costs[way].append(json.loads(done.stdout.splitlines()[-1]))
    pairs = [(one["seconds"], other["seconds"]) for one, other in zip(*costs.values(), strict=True)]
    name, against = "compare two files of 90 MB by module", "every value as an output, by hand"
    yield paired(name, pairs, against)
    mine, theirs = (max(cost["mib"] for cost in each) for each in costs.values())
    yield single(f"{name}: peak memory", mine, theirs, against, unit="MiB")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2], *map(Path, sys.argv[3:]))
    else:
        main(__doc__, rows)
