"""Files of IR versions below 4 have their weights among the inputs, and cannot get tags unchanged."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimum_htp import tag_file
from optimum_htp.errors import OnnxWriteError
from optimum_htp.hierarchy.tags import MODULES, TagWriter
from optimum_htp.metadata import ExportMetadata
from optimum_htp.onnxfile import read_metadata
from optimum_htp.stamping.stamp import stamp
from optimum_htp.stamping.tag import Tagger

RECORD = ExportMetadata(model_type="local", export_timestamp="2026-01-31T12:00:00Z", task="fill-mask")


def save(path, ir_version, *, weights_are_inputs):
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])]
    if weights_are_inputs:
        inputs.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [2, 2]))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="/encoder/dense/MatMul")],
        "old",
        inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(np.eye(2, dtype="float32"), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 8)], ir_version=ir_version), path)
    return path


def stamp_with_tags(path):
    stamp(path, RECORD, author=None, extra={}, tags=TagWriter(Tagger().assignment(path)))


@pytest.mark.parametrize("tag", [tag_file, stamp_with_tags])
def test_file_whose_weights_are_inputs_is_refused(tag, tmp_path):
    path = save(tmp_path / "old.onnx", 3, weights_are_inputs=True)
    before = path.read_bytes()
    with pytest.raises(OnnxWriteError, match=r"old\.onnx has IR version 3, and 1 of its weights.*'w'.*ir_version"):
        tag(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(("ir_version", "weights_are_inputs"), [(3, False), (4, False), (4, True), (9, True)])
def test_file_that_keeps_its_meaning_is_tagged(ir_version, weights_are_inputs, tmp_path):
    path = save(tmp_path / "old.onnx", ir_version, weights_are_inputs=weights_are_inputs)
    tag_file(path)
    assert MODULES in read_metadata(path)
    assert onnx.load(path).ir_version == 10


def test_old_file_takes_a_record(tmp_path):
    path = save(tmp_path / "old.onnx", 3, weights_are_inputs=True)
    stamp(path, RECORD, author=None, extra={})
    assert onnx.load(path).ir_version == 3
