"""Any model and any damage: this package's reader and writer, compared with onnx's own parser."""

from __future__ import annotations

import itertools

import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper

from optimum_htp.errors import (
    InvalidOnnxFileError,
)
from optimum_htp.onnxfile import read_graph, read_header, read_metadata, rewrite_model
from optimum_htp.onnxfile.graph import graph_of
from optimum_htp.onnxfile.reader import opened
from optimum_htp.onnxfile.writer import OpenModel
from tests.support.protobufs import entries, models, raw_models

every = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def all_nodes(graph):
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from all_nodes(attribute.g)


@every
@given(model=models())
def test_reading_agrees_with_onnx(model, path):
    path.write_bytes(model.SerializeToString())
    header, graph = read_header(path), read_graph(path)
    assert (header.ir_version, header.producer_name, header.domain, header.doc_string) == (
        model.ir_version,
        model.producer_name,
        model.domain,
        model.doc_string,
    )
    assert header.metadata == {entry.key: entry.value for entry in model.metadata_props}
    assert header.opsets == {one.domain: one.version for one in model.opset_import}
    assert [node.name for node in graph.nodes] == [node.name for node in all_nodes(model.graph)]
    assert [node.inputs for node in graph.nodes] == [tuple(node.input) for node in all_nodes(model.graph)]
    assert [(t.name, t.shape) for t in graph.initializers] == [
        (t.name, tuple(t.dims)) for t in model.graph.initializer
    ]
    weights = {t.name for t in model.graph.initializer}  # some files list them as inputs too
    assert [spec.name for spec in graph.inputs] == [v.name for v in model.graph.input if v.name not in weights]
    for spec, value in zip(graph.outputs, model.graph.output, strict=True):
        shape = value.type.tensor_type.shape
        assert spec.shape == tuple(d.dim_param or d.dim_value for d in shape.dim)
        assert spec.dtype == helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name


@every
@given(model=models(), added=entries, tags=entries, version=st.none() | st.integers(0, 99))
def test_writing_agrees_with_onnx(model, added, tags, version, path):
    path.write_bytes(model.SerializeToString())
    turn = itertools.count()
    rewrite_model(
        path,
        metadata=added,
        drop=lambda key: key.startswith("a"),
        nodes=lambda known: {**known, **tags} if next(turn) % 2 else None,
        ir_version=version,
        texts={"doc_string": "new"},
    )
    kept = [e for e in model.metadata_props if e.key not in added and not e.key.startswith("a")]
    kept = [(e.key, e.value) for e in kept]
    del model.metadata_props[:]
    for key, value in [*kept, *added.items()]:
        model.metadata_props.add(key=key, value=value)
    for index, node in enumerate(all_nodes(model.graph)):
        if index % 2:
            helper.set_model_props(node, {**{e.key: e.value for e in node.metadata_props}, **tags})
    model.doc_string = "new"
    if version is not None:
        model.ir_version = version
    assert ModelProto.FromString(path.read_bytes()) == model


@every
@given(model=models())
def test_visiting_without_a_change_keeps_every_byte(model, path):
    before = model.SerializeToString()
    path.write_bytes(before)
    rewrite_model(path, nodes=lambda known: known)
    assert path.read_bytes() == before


@every
@given(model=models(), data=st.data())
def test_fields_in_any_order_are_understood(model, data, path):
    """Protobuf allows any order of fields, and unknown ones; the last of a repeated singular field counts."""
    parts = [ModelProto(producer_name="first").SerializeToString(), b"\xfa\x3f\x03new"]
    for field, _ in model.ListFields():
        part = ModelProto()
        if field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED:
            getattr(part, field.name).extend(getattr(model, field.name))
        elif field.message_type:
            getattr(part, field.name).CopyFrom(getattr(model, field.name))
        else:
            setattr(part, field.name, getattr(model, field.name))
        parts.append(part.SerializeToString())
    shuffled = b"".join(data.draw(st.permutations(parts)))
    path.write_bytes(shuffled)
    expected = ModelProto.FromString(shuffled)
    assert read_header(path).producer_name == expected.producer_name
    rewrite_model(path, metadata={"k": "v"}, drop=lambda key: key == "k")
    written = ModelProto.FromString(path.read_bytes())
    assert read_metadata(path)["k"] == "v"
    del written.metadata_props[:], expected.metadata_props[:]
    assert written == expected
    assert b"\xfa\x3f\x03new" in path.read_bytes()


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(model=models(), data=st.data())
def test_damaged_files_are_rejected_or_read_as_by_onnx(model, data, path):
    content = bytearray(model.SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]
    path.write_bytes(content)
    try:
        metadata = read_metadata(path)
    except InvalidOnnxFileError:
        return
    try:
        oracle = ModelProto.FromString(bytes(content))
    except DecodeError:
        return  # onnx checks the graph, which this reader skips
    assert metadata == {entry.key: entry.value for entry in oracle.metadata_props}


VISITORS = {
    "add": lambda known: {**known, "tag": "t"},
    "clear": lambda known: {},
    "drop": lambda known: {key: value for key, value in known.items() if key != "htp.tag"},
    "leave": lambda known: None,
}


def read_and_tagged(path, visitors, *, at_once=False):
    """Return the graph of a file and its bytes with other metadata; or the reason of the failure."""
    turn = itertools.cycle(visitors)
    try:
        with opened(path) as window:
            graph = graph_of(window)
        output = path.with_name("tagged.onnx")
        output.unlink(missing_ok=True)  # a damaged file is not replaced
        with OpenModel.at(path) as model:
            if at_once:
                assert model.graph == graph
            model.rewrite(nodes=lambda known: VISITORS[next(turn)](known), output=output)
            return graph, output.read_bytes()
    except InvalidOnnxFileError as error:
        return str(error)


@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    content=raw_models,
    damage=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=2),
    visitors=st.lists(st.sampled_from(sorted(VISITORS)), min_size=1, max_size=4),
)
def test_short_nodes_are_read_and_written_as_long_ones_are(content, damage, visitors, path):
    damaged = bytearray(content)
    for position, value in damage:
        damaged[position % len(damaged)] = value
    path.write_bytes(damaged)
    found = read_and_tagged(path, visitors)
    assert read_and_tagged(path, visitors, at_once=True) == found
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("optimum_htp.onnxfile.plain._SHORT", -1)
        patch.setattr("optimum_htp.onnxfile.plain._HEAD", 0)
        assert read_and_tagged(path, visitors) == found
