"""Reading, stamping and tagging a large ONNX file, against onnx.load + onnx.save and cp, in the same run.

    python -m benchmarks.onnxfile [--gigabytes 1.5] [--nodes 4000] [--rounds 3] [--json]

Every way of writing ends with an fsync of the result. Each measurement runs in a process of its own: seconds are
the best of the rounds, memory is the peak of the process above what it had after `import onnx`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.pairs import forget_peak, peak_kilobytes

NODES_IN_A_LAYER = 4


def generate(path: Path, gigabytes: float, nodes: int) -> None:
    """Write a model of that size: a chain of layers, a quarter of whose nodes have a weight."""
    import onnx
    from onnx import TensorProto, helper

    layers = nodes // NODES_IN_A_LAYER
    floats = int(gigabytes * (1 << 30) / 4 / layers)
    raw = os.urandom(1 << 20) * (floats * 4 // (1 << 20) + 1)
    parts, initializers, last = [], [], "x"
    for layer in range(layers):
        module = f"/model/layers.{layer}/mlp"
        initializers.append(TensorProto(name=f"w{layer}", data_type=1, dims=[1, floats], raw_data=raw[: floats * 4]))
        for index, op in enumerate(("Mul", "Relu", "Identity", "Neg")):
            output = f"{module}/{op}_output_0"
            inputs = [last, f"w{layer}"] if index == 0 else [last]
            parts.append(helper.make_node(op, inputs, [output], name=f"{module}/{op}"))
            last = output
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        parts, "large", [value("x", 1, [1, floats])], [value(last, 1, [1, floats])], initializers
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


def tags(name: str) -> dict[str, str]:
    module = name.strip("/").rpartition("/")[0]
    tag = "/Model/ModuleList/Layer.{}/Mlp".format(module.split("/")[1].rpartition(".")[2])
    return {"htp.module": module.replace("/", "."), "htp.tag": tag, "namespace": module}


def sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def read_ours(path: Path) -> None:
    from optimum_htp.onnxfile import read_metadata

    read_metadata(path)


def read_onnx(path: Path) -> None:
    import onnx

    {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def stamp_ours(path: Path) -> None:
    from optimum_htp.onnxfile import rewrite_model

    rewrite_model(path, metadata={"hf_hub_id": "org/model"}, output=path.with_suffix(".new"))


def stamp_onnx(path: Path) -> None:
    import onnx

    model = onnx.load(path)
    model.metadata_props.add(key="hf_hub_id", value="org/model")
    onnx.save(model, path.with_suffix(".new"))
    sync(path.with_suffix(".new"))


def tag_ours(path: Path) -> None:
    from optimum_htp.onnxfile import read_graph, rewrite_model

    nodes = iter(read_graph(path).nodes)
    rewrite_model(path, nodes=lambda known: tags(next(nodes).name), output=path.with_suffix(".new"))


def tag_onnx(path: Path) -> None:
    import onnx

    model = onnx.load(path)
    for node in model.graph.node:
        for key, value in tags(node.name).items():
            node.metadata_props.add(key=key, value=value)
    onnx.save(model, path.with_suffix(".new"))
    sync(path.with_suffix(".new"))


def copy(path: Path) -> None:
    subprocess.run(["cp", path, path.with_suffix(".new")], check=True)
    sync(path.with_suffix(".new"))


WAYS = {f.__name__: f for f in (read_ours, read_onnx, copy, stamp_ours, stamp_onnx, tag_ours, tag_onnx)}


def read_kilobytes() -> int:
    """Return how much this process has asked the kernel to read."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"]) // 1024


def measure(way: str, path: Path) -> None:
    """Run one way in this process and print what it cost."""
    import onnx  # noqa: F401 - what both have, before the measurement

    import optimum_htp.onnxfile  # noqa: F401

    before, read_before = forget_peak(), read_kilobytes()
    started = time.perf_counter()
    WAYS[way](path)
    seconds = time.perf_counter() - started
    cost = {"seconds": seconds, "mib": (peak_kilobytes() - before) / 1024, "read_kib": read_kilobytes() - read_before}
    print(json.dumps(cost))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.5)
    parser.add_argument("--nodes", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", type=Path, help="Where to put the files (a real disk).")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        return measure(arguments.measure[0], Path(arguments.measure[1]))
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "large.onnx"
        generate(path, arguments.gigabytes, arguments.nodes)
        sync(path)
        results: dict[str, dict[str, float]] = {}
        for _ in range(arguments.rounds):
            for way in WAYS:
                command = [sys.executable, "-m", "benchmarks.onnxfile", "--measure", way, str(path)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                cost = json.loads(done.stdout)
                if way not in results or cost["seconds"] < results[way]["seconds"]:
                    results[way] = cost
                path.with_suffix(".new").unlink(missing_ok=True)
    for way, cost in results.items():
        peer = {"read_ours": "read_onnx"}.get(way, "copy")
        cost["ratio"] = cost["seconds"] / results[peer]["seconds"]
    if arguments.json:
        print(json.dumps(results, indent=2))
        return
    print(f"{arguments.gigabytes} GB, {arguments.nodes} nodes, best of {arguments.rounds}")
    for way, cost in results.items():
        peer = "x onnx.load" if way == "read_ours" else "x cp"
        print(f"{way:<11} {cost['seconds']:9.4f} s {cost['ratio']:8.4f} {peer:<11} {cost['mib']:8.1f} MiB")


if __name__ == "__main__":
    main()
