"""Extracting a module from a large ONNX file, against onnx.utils.extract_model, and against a small file with the same
number of nodes.

    python -m benchmarks.modules [--quick] [--json]

The module has a thousandth of the nodes. Each measurement runs in a new process, in turn; memory is the peak above
that after the imports.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.fresh import Cost, cost
from benchmarks.onnxfile import NODES_IN_A_LAYER, generate, sync, tags
from benchmarks.rows import Row, main, paired, single

LAYER = 7
PRELOADED = ("onnx", "optimum_htp.modules.extract")


def tagged(path: Path, gigabytes: float, nodes: int) -> Path:
    """Write a model whose nodes have tags."""
    from optimum_htp.onnxfile import read_graph, rewrite_model

    generate(path, gigabytes, nodes)
    names = iter(read_graph(path).nodes)
    classes = {"": "Large", "model": "Model", "model.layers": "ModuleList"}
    for layer in range(nodes // NODES_IN_A_LAYER):
        classes |= {f"model.layers.{layer}": "Layer", f"model.layers.{layer}.mlp": "Mlp"}
    rewrite_model(path, nodes=lambda known: tags(next(names).name), metadata={"htp.modules": json.dumps(classes)})
    sync(path)
    return path


def ours(path: Path) -> None:
    from optimum_htp import extract_module

    extract_module(path, f"model.layers.{LAYER}", path.with_suffix(".cut"))


def onnxs_own(path: Path) -> None:
    import onnx

    borders = [f"/model/layers.{layer}/mlp/Neg_output_0" for layer in (LAYER - 1, LAYER)]
    onnx.utils.extract_model(str(path), str(path.with_suffix(".cut")), borders[:1], borders[1:], check_model=False)
    sync(path.with_suffix(".cut"))


WAYS: dict[str, Callable[[Path], None]] = {"ours": ours, "onnx": onnxs_own}


def rows(quick: bool) -> Iterator[Row]:
    gigabytes, nodes, count = (0.1, 4000, 2) if quick else (1.2, 4000, 4)
    with tempfile.TemporaryDirectory() as folder:
        sizes = {"large": gigabytes, "small": gigabytes / 100}
        files = {name: tagged(Path(folder) / f"{name}.onnx", size, nodes) for name, size in sizes.items()}
        costs: dict[tuple[str, str], list[Cost]] = {}
        for _ in range(count):
            for way in WAYS:
                for name, path in files.items():
                    costs.setdefault((way, name), []).append(cost(WAYS[way], path, preloaded=PRELOADED))

    def column(way: str, name: str, field: str) -> list[float]:
        return [getattr(each, field) for each in costs[way, name]]

    large, small = (
        f"extract a layer of {nodes // NODES_IN_A_LAYER}, {sizes[name]:.3g} GB" for name in ("large", "small")
    )
    for title, name in ((large, "large"), (small, "small")):
        pairs = [*zip(column("ours", name, "seconds"), column("onnx", name, "seconds"), strict=True)]
        yield paired(title, pairs, "onnx.utils.extract_model", target=0.1 if name == "large" else None)
    mine, theirs = (max(column(way, "large", "mib")) for way in ("ours", "onnx"))
    yield single(f"{large}: peak memory", mine, theirs, "onnx.utils.extract_model", unit="MiB", target=0.05)
    pairs = [*zip(column("ours", "large", "seconds"), column("ours", "small", "seconds"), strict=True)]
    yield paired(large, pairs, "the same from a file of a hundredth", target=1.5)


if __name__ == "__main__":
    main(__doc__, rows)
