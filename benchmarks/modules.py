"""Cutting a module out of a large ONNX file, against onnx.utils.extract_model, and against a small file of as many
nodes.

    python -m benchmarks.modules [--gigabytes 1.2] [--nodes 4000] [--rounds 3]

A thousandth of the nodes is the module's. Each measurement runs in a process of its own: seconds are the best of the
rounds, memory is the peak above what there was after the imports.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.onnxfile import generate, read_kilobytes, sync, tags
from benchmarks.pairs import forget_peak, peak_kilobytes

LAYER = 7


def tagged(path: Path, gigabytes: float, nodes: int) -> Path:
    """Write a model whose nodes have tags."""
    from optimum_htp.onnxfile import read_graph, rewrite_model

    generate(path, gigabytes, nodes)
    names = iter(read_graph(path).nodes)
    rewrite_model(path, nodes=lambda known: tags(next(names).name), metadata={"htp.modules": "{}"})
    sync(path)
    return path


def ours(path: Path) -> None:
    from optimum_htp import extract_module

    extract_module(path, f"model.layers.{LAYER}", path.with_suffix(".cut"))


def onnxs_own(path: Path) -> None:
    import onnx

    edges = [f"/model/layers.{layer}/mlp/Neg_output_0" for layer in (LAYER - 1, LAYER)]
    onnx.utils.extract_model(str(path), str(path.with_suffix(".cut")), edges[:1], edges[1:], check_model=False)
    sync(path.with_suffix(".cut"))


WAYS: dict[str, Callable[[Path], None]] = {"ours": ours, "onnx": onnxs_own}


def measure(way: str, path: Path) -> None:
    """Run one way in this process and print what it cost."""
    import onnx  # noqa: F401 - what both have, before the measurement

    import optimum_htp.modules.extract  # noqa: F401

    before, read_before = forget_peak(), read_kilobytes()
    started = time.perf_counter()
    WAYS[way](path)
    seconds = time.perf_counter() - started
    cost = {"seconds": seconds, "mib": (peak_kilobytes() - before) / 1024, "read_kib": read_kilobytes() - read_before}
    print(json.dumps(cost))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.2)
    parser.add_argument("--nodes", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="Where to put the files (a real disk).")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        return measure(arguments.measure[0], Path(arguments.measure[1]))
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        sizes = {"large": arguments.gigabytes, "small": arguments.gigabytes / 100}
        files = {name: tagged(Path(folder) / f"{name}.onnx", size, arguments.nodes) for name, size in sizes.items()}
        results: dict[tuple[str, str], dict[str, float]] = {}
        for _ in range(arguments.rounds):
            for way in WAYS:
                for name, path in files.items():
                    command = [sys.executable, "-m", "benchmarks.modules", "--measure", way, str(path)]
                    cost = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                    if (way, name) not in results or cost["seconds"] < results[way, name]["seconds"]:
                        results[way, name] = cost
    print(f"a layer of {arguments.nodes // 4}, best of {arguments.rounds}")
    for (way, name), cost in results.items():
        print(
            f"{way:<5} from {sizes[name]:6.3f} GB {cost['seconds']:8.3f} s {cost['mib']:8.1f} MiB of memory "
            f"{cost['read_kib'] / 1024:8.1f} MiB read"
        )


if __name__ == "__main__":
    main()
