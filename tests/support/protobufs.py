"""ONNX models and their bytes, with any content: strategies of hypothesis, and fields by hand."""

from __future__ import annotations

import onnx
from hypothesis import strategies as st
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

texts = st.text(max_size=12)
names = st.text("abcxyz/._0", max_size=10)
entries = st.dictionaries(texts, texts, max_size=4)


@st.composite
def nodes(draw, depth=2):
    node = NodeProto(name=draw(names), op_type=draw(names), domain=draw(names), doc_string=draw(texts))
    node.input.extend(draw(st.lists(names, max_size=3)))
    node.output.extend(draw(st.lists(names, max_size=2)))
    helper.set_model_props(node, draw(entries))
    if depth and draw(st.booleans()):
        attribute = node.attribute.add(name="branch")
        attribute.g.CopyFrom(draw(graphs(depth=depth - 1)))
        attribute.type = onnx.AttributeProto.GRAPH
    return node


@st.composite
def graphs(draw, depth=2):
    graph = GraphProto(name=draw(names))
    graph.node.extend(draw(st.lists(nodes(depth=depth), max_size=3)))
    for name in draw(st.lists(names, max_size=2)):
        tensor = TensorProto(name=name, data_type=1, dims=draw(st.lists(st.integers(0, 300), max_size=3)))
        tensor.raw_data = draw(st.binary(max_size=40))
        if draw(st.booleans()):
            tensor.external_data.add(key="location", value=draw(names))
        graph.initializer.append(tensor)
    for side in (graph.input, graph.output):
        for name in draw(st.lists(names, max_size=2)):
            dims = draw(st.lists(st.one_of(st.integers(0, 2**40), st.text("ab", min_size=1, max_size=3)), max_size=3))
            side.append(helper.make_tensor_value_info(name, draw(st.sampled_from([1, 6, 7, 9, 10])), dims))
    return graph


@st.composite
def models(draw):
    model = ModelProto(
        ir_version=draw(st.integers(-(2**63), 2**63 - 1)),
        producer_name=draw(texts),
        domain=draw(texts),
        doc_string=draw(texts),
    )
    model.graph.CopyFrom(draw(graphs()))
    for domain in draw(st.lists(names, max_size=3)):
        model.opset_import.add(domain=domain, version=draw(st.integers(-5, 2**40)))
    for key, value in draw(st.lists(st.tuples(texts, texts), max_size=4)):
        model.metadata_props.add(key=key, value=value)
    return model


def varint(value):
    encoded = b""
    while value > 0x7F:
        encoded += bytes([value & 0x7F | 0x80])
        value >>= 7
    return encoded + bytes([value])


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


lengths = st.sampled_from(
    [0, 1, 3, 30, 126, 127, 128, 129, 200, 254, 255, 256, 300, 900, 1010, 1023, 1024, 1030, 4096]
)
raw_texts = st.builds(lambda letter, length: letter * length, st.sampled_from([b"a", b"2", b"Z", b"\xff"]), lengths)
values = st.one_of(
    st.sampled_from([b"Add", b"MatMulNBits", b"htp.tag"]), raw_texts.filter(lambda content: len(content) < 200)
)


@st.composite
def raw_entries(draw):
    """A metadata property in its usual encoding, and in all others."""
    parts = [field(1, draw(values)), field(2, draw(values))]
    other = draw(st.sampled_from(["", "", "", "", "turned", "no value", "more"]))
    if other == "turned":
        parts.reverse()
    elif other:
        parts = parts[:1] if other == "no value" else [*parts, field(3, b"x")]
    return field(9, b"".join(parts))


@st.composite
def raw_nodes(draw, depth=1):
    attributes = [raw_texts, st.just(field(1, b"axis") + b"\x18\x05"), st.just(b"\x0f" * 30)]
    if depth:
        attributes.append(raw_nodes(depth - 1).map(lambda node: field(6, field(1, node))))
    parts = st.one_of(
        st.builds(field, st.sampled_from([1, 2, 3, 4, 7]), values),
        st.builds(field, st.sampled_from([6, 8, 16, 40]), raw_texts),
        st.one_of(attributes).map(lambda content: field(5, content)),
        raw_entries(),
        raw_entries(),
        raw_entries().map(lambda entry: field(16, entry)),  # unknown, with a tag of two bytes
        st.sampled_from([b"\x48\x05", b"\x8d\x02abcd", b"\x4a\x83\x00\x0a\x01k"]),  # of other types and lengths
    )
    return b"".join(draw(st.lists(parts, max_size=8)))


numbers = st.sampled_from([0, 1, 7, 127, 128, 300, 16_383, 16_384, (1 << 64) - 1]).map(varint)
raw_tensors = st.lists(
    st.one_of(
        st.builds(lambda tag, number: tag + number, st.sampled_from([b"\x08", b"\x10", b"\x70"]), numbers),
        st.builds(field, st.sampled_from([1, 8, 9, 9, 13]), raw_texts),
        st.builds(lambda name: field(8, name), values),
    ),
    max_size=5,
).map(b"".join)
raw_models = st.lists(
    st.one_of(raw_nodes().map(lambda node: field(1, node)), raw_tensors.map(lambda one: field(5, one))),
    max_size=4,
).map(lambda parts: b"\x08\x08" + field(7, b"".join(parts) + field(2, b"g")))


def nested(depth):
    """A graph in an attribute in a node in a graph, and so on."""
    content = b""
    for _ in range(depth):
        content = b"\x32" + varint(len(content)) + content  # AttributeProto.g
        content = b"\x2a" + varint(len(content)) + content  # NodeProto.attribute
        content = b"\x0a" + varint(len(content)) + content  # GraphProto.node
    return b"\x3a" + varint(len(content)) + content
