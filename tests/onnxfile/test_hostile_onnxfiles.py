"""Hostile and endless ONNX files are refused with little memory, and large ones are read."""

from __future__ import annotations

import os
import tracemalloc

import pytest
from onnx import GraphProto, ModelProto

from optimum_htp.errors import (
    InvalidOnnxFileError,
)
from optimum_htp.onnxfile import external_files, read_graph, read_header, read_metadata, rewrite_model
from optimum_htp.onnxfile.contents import stored_tensors
from optimum_htp.onnxfile.writer import OpenModel
from tests.support.protobufs import nested, varint

HOSTILE = {
    "length beyond the file": b"\x3a\x00\x72" + varint(1 << 40),
    "length beyond 64 bits": b"\x3a\x00\x72" + b"\xff" * 9 + b"\x7f",
    "varint of 11 bytes": b"\x08" + b"\x80" * 10 + b"\x01",
    "field number zero": b"\x02\x00",
    "wire type seven": b"\x0f\x00",
    "group never closed": b"\x3a\x00\x0b\x08\x01",
    "group closed as another": b"\x3a\x00\x0b\x14",
    "groups too deep": b"\x0b" * 100_000,
    "no graph": b"\x08\x08",
    "key not utf-8": b"\x3a\x00\x72\x04\x0a\x02\xff\xff",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_bytes_are_refused_by_reader_and_writer(case, tmp_path):
    path = tmp_path / "hostile.onnx"
    path.write_bytes(HOSTILE[case])
    for attempt in (read_header, lambda one: rewrite_model(one, metadata={"k": "v"})):
        with pytest.raises(InvalidOnnxFileError, match=r"hostile\.onnx"):
            attempt(path)
    assert path.read_bytes() == HOSTILE[case]
    assert list(tmp_path.iterdir()) == [path]


def test_deep_nesting_is_rejected(tmp_path):
    path = tmp_path / "deep.onnx"
    path.write_bytes(nested(3000))
    assert read_metadata(path) == {}  # the graph is skipped
    for attempt in (read_graph, external_files, lambda one: rewrite_model(one, nodes=lambda known: None)):
        with pytest.raises(InvalidOnnxFileError, match="deep"):
            attempt(path)


def test_many_properties_are_read_and_replaced(tmp_path):
    path = tmp_path / "many.onnx"
    model = ModelProto(graph=GraphProto(name="g"))
    for index in range(100_000):
        model.metadata_props.add(key=f"key {index}", value="v")
    path.write_bytes(model.SerializeToString())
    assert len(read_metadata(path)) == 100_000
    rewrite_model(path, metadata={"k": "v"}, drop=lambda key: key.startswith("key"))
    assert read_metadata(path) == {"k": "v"}


def test_endless_text_is_rejected_with_little_memory(tmp_path):
    path = tmp_path / "endless.onnx"
    with path.open("wb") as stream:
        stream.write(b"\x3a\x00\x32" + varint(4 << 30))
        stream.seek(4 << 30, os.SEEK_CUR)
        stream.truncate()
    tracemalloc.start()
    with pytest.raises(InvalidOnnxFileError, match="MiB of text"):
        read_header(path)
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()


def nodes_with_text(path, count, length):
    model = ModelProto(graph=GraphProto(name="g"))
    for index in range(count):
        node = model.graph.node.add(op_type="Relu", input=["x"], name=f"{index}")
        node.metadata_props.add(key="note", value="n" * length)
        model.graph.initializer.add(name=f"{index}", data_type=1, dims=[0]).doc_string = "d" * length
    path.write_bytes(model.SerializeToString())
    return path


def test_large_text_of_many_nodes_is_read_and_written(tmp_path):
    path = nodes_with_text(tmp_path / "many.onnx", 1000, 100_000)
    with OpenModel.at(path) as model:
        assert len(model.header.metadata) == 0
        assert len(model.graph.nodes) == 1000
        model.rewrite(nodes=lambda known: {**known, "k": "v"})
    with OpenModel.at(path) as model:
        assert all(node.metadata["k"] == "v" for node in model.graph.nodes)
        model.rewrite(nodes=lambda known: {"k": "v"})
    assert len(stored_tensors(path)) == 1000
    assert external_files(path) == ()


def test_endless_text_of_few_nodes_is_rejected(tmp_path):
    path = nodes_with_text(tmp_path / "few.onnx", 90, 1 << 20)
    for attempt in (read_graph, lambda one: rewrite_model(one, nodes=lambda known: {**known, "k": "v"})):
        with pytest.raises(InvalidOnnxFileError, match="MiB of text"):
            attempt(path)


def test_thirty_nested_branches_are_read(tmp_path):
    path = tmp_path / "nested.onnx"
    path.write_bytes(nested(30))
    assert len(read_graph(path).nodes) == 30
