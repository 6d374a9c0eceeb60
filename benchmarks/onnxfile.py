"""Reading, stamping and tagging a large ONNX file, against onnx.load + onnx.save and cp, in the same run.

    python -m benchmarks.onnxfile [--quick] [--json]

Every way of writing ends with an fsync of the result. Each measurement runs in a new process, and all ways take
turns; memory is the peak of the process above that after the imports.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.fresh import Cost, cost
from benchmarks.rows import Row, main, paired, single

NODES_IN_A_LAYER = 4
LOAD_AND_SAVE = "onnx.load + onnx.save"
PRELOADED = ("onnx", "optimum_htp.onnxfile")


def generate(path: Path, gigabytes: float, nodes: int) -> None:
    """Write a model of a given size: a chain of layers, in which a quarter of the nodes have a weight."""
    import onnx
    from onnx import TensorProto, helper

    layers = max(1, nodes // NODES_IN_A_LAYER)
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
    from optimum_htp.onnxfile import OpenModel

    with OpenModel.at(path) as model:
        nodes = iter(model.graph.nodes)
        model.rewrite(nodes=lambda known: tags(next(nodes).name), output=path.with_suffix(".new"))


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


def rounds(path: Path, ways: tuple[str, ...], count: int) -> dict[str, list[Cost]]:
    """Run each way several times, in turn."""
    costs: dict[str, list[Cost]] = {way: [] for way in ways}
    for index in range(count):
        for way in ways if index % 2 else ways[::-1]:
            costs[way].append(cost(WAYS[way], path, preloaded=PRELOADED))
            path.with_suffix(".new").unlink(missing_ok=True)
    return costs


def pairs_of(costs: dict[str, list[Cost]], ours: str, peer: str) -> list[tuple[float, float]]:
    return [(one.seconds, other.seconds) for one, other in zip(costs[ours], costs[peer], strict=True)]


def large(folder: Path, megabytes: int, nodes: int, count: int) -> Iterator[Row]:
    """Compare all ways on one large file."""
    path = folder / "large.onnx"
    generate(path, megabytes / 1024, nodes)
    sync(path)
    costs = rounds(path, tuple(way for way in WAYS if way != "copy"), count)
    # A disk's speed varies, and these are fast.
    beside_cp = rounds(path, ("copy", "stamp_ours", "tag_ours"), 2 * count)
    size = f"{megabytes / 1024:.3g} GB"
    curve = {LOAD_AND_SAVE: {"series": "size in MB", "at": megabytes}}
    for name, ours, peer, against, target in (
        ("read metadata", "read_ours", "read_onnx", "onnx.load", 0.01),
        ("stamp", "stamp_ours", "stamp_onnx", LOAD_AND_SAVE, 0.3),
        ("stamp", "stamp_ours", "copy", "cp", 1.3),
        ("tag every node", "tag_ours", "tag_onnx", LOAD_AND_SAVE, 0.3),
        ("tag every node", "tag_ours", "copy", "cp", 1.5),
    ):
        pairs = pairs_of(beside_cp if peer == "copy" else costs, ours, peer)
        yield paired(f"{name}, {size}", pairs, against, target=target, **curve.get(against, {}))
    for name, ours, peer in (("stamp", "stamp_ours", "stamp_onnx"), ("tag every node", "tag_ours", "tag_onnx")):
        mine, theirs = (max(1.0, max(each.mib for each in costs[way])) for way in (ours, peer))
        yield single(f"{name}, {size}: peak memory", mine, theirs, LOAD_AND_SAVE, unit="MiB", target=0.05)
    path.unlink()


def growing(folder: Path, series: str, sizes: dict[float, tuple[int, int]], count: int) -> Iterator[Row]:
    """Compare stamping and tagging with `onnx`, for growing sizes in MB and in nodes."""
    for at, (megabytes, nodes) in sizes.items():
        path = folder / "grown.onnx"
        generate(path, megabytes / 1024, nodes)
        sync(path)
        costs = rounds(path, ("stamp_ours", "stamp_onnx", "tag_ours", "tag_onnx"), count)
        for name, verb in (("stamp", "stamp"), ("tag every node", "tag")):
            pairs = pairs_of(costs, f"{verb}_ours", f"{verb}_onnx")
            yield paired(f"{name}, {megabytes} MB, {nodes} nodes", pairs, LOAD_AND_SAVE, series=series, at=at)
        path.unlink()


def rows(quick: bool) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield from large(folder, *((100, 4000, 2) if quick else (1800, 4000, 3)))
        sizes = (10,) if quick else (10, 100, 500)
        yield from growing(folder, "size in MB", {size: (size, 400) for size in sizes}, 2)
        counts = (100, 1000) if quick else (100, 1000, 10_000, 50_000)
        yield from growing(folder, "nodes", {nodes: (50, nodes) for nodes in counts}, 2)


if __name__ == "__main__":
    main(__doc__, rows)
