"""A tagged model of two modules whose weight is external data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from optimum_htp.stamping.tag import tag_file


def save_external(path: Path, value: float) -> Path:
    """Write the model; all elements of the weight of module `a` have this value."""
    nodes = [
        helper.make_node("Add", ["x", "w"], ["y"], name="/a/Add"),
        helper.make_node("Relu", ["y"], ["z"], name="/b/Relu"),
    ]
    weight = numpy_helper.from_array(np.full(3, value, np.float32), "w")
    info = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [info("x", 1, [3])], [info("z", 1, [3])], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path.with_suffix(".data").unlink(missing_ok=True)  # onnx.save appends to data files
    onnx.save(model, path, save_as_external_data=True, location=path.with_suffix(".data").name, size_threshold=0)
    tag_file(path)
    return path


def weight_of(path: Path) -> list[float]:
    """Return the weight as other programs load it."""
    values: list[float] = numpy_helper.to_array(onnx.load(path).graph.initializer[0]).tolist()
    return values
