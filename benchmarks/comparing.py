"""Comparing two files module by module, against running both with every value as an output.

    python -m benchmarks.comparing [--quick] [--json]

The peer is written by hand: onnx.load, an output for every value, two sessions, numpy.allclose. Each runs in a new
process, in turn, on MiniLM (90 MB) and a copy of it. Memory is the peak above that after the imports.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from benchmarks import minilm
from benchmarks.fresh import Cost, cost
from benchmarks.pairs import empty_hub
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


PRELOADED = ("onnx", "onnxruntime", "optimum_htp.modules.comparison.compare")
WAYS = {"ours": ours, "by_hand": by_hand}


def rows(quick: bool) -> Iterator[Row]:
    with empty_hub() as (hub, home):
        file = minilm.served(hub, home).file()
        copy = Path(shutil.copy(file, home / "copy.onnx"))
        costs: dict[str, list[Cost]] = {way: [] for way in WAYS}
        for _ in range(1 if quick else 4):
            for way, function in WAYS.items():
                costs[way].append(cost(function, file, copy, preloaded=PRELOADED))
    pairs = [(one.seconds, other.seconds) for one, other in zip(*costs.values(), strict=True)]
    name, against = "compare two files of 90 MB by module", "every value as an output, by hand"
    yield paired(name, pairs, against, target=1.3)
    mine, theirs = (max(each.mib for each in found) for found in costs.values())
    yield single(f"{name}: peak memory", mine, theirs, against, unit="MiB", target=1.1)


if __name__ == "__main__":
    main(__doc__, rows)
