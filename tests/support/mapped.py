"""Models with mapped weights, and the sessions that show the mapping."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from optimum_htp.profiling import can_map_weights

CPU = ["CPUExecutionProvider"]
LOG = "optimum_htp.loading.mapped"
RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.standard_normal((128, 128)).astype(np.float32)


def run(session, feed):
    return [np.asarray(value).tobytes() for value in session.run(None, feed)]


def assert_mapped(caplog):
    said = [record.message for record in caplog.records if record.name == LOG]
    assert said == [] or not can_map_weights()


def model_of(path: Path, nodes, initializers, inputs=(("x", 1, [1, 128]),), sparse=(), outputs=("y",)) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*spec) for spec in inputs],
        [helper.make_value_info(name, onnx.TypeProto()) for name in outputs],
        initializers,
        sparse_initializer=sparse,
    )
    domains = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=domains), path)
    return path


FEED = {"x": np.linspace(-1, 1, 128, dtype=np.float32).reshape(1, 128)}
TIMES = helper.make_node("MatMul", ["x", "wf"], ["y"])


def cast_of(tensor):
    return [helper.make_node("Cast", ["w"], ["wf"], to=TensorProto.FLOAT), TIMES], [tensor]


def array(dtype):
    return numpy_helper.from_array(WEIGHT.astype(dtype), "w")
