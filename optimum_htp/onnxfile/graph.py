"""Reads the structure of a graph: its nodes and initializers as small records, without weights.

Subgraphs (of `If`, `Loop`, `Scan`) and the model's own functions are read too. Each node has the names of the nodes
around it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

from optimum_htp.onnxfile.operators import WITH_INTEGERS
from optimum_htp.onnxfile.plain import may_hold_graph, plain_node, plain_tensor
from optimum_htp.onnxfile.reader import GRAPH_INPUT, GRAPH_OUTPUT, entry, opened
from optimum_htp.onnxfile.structure import (
    ATTRIBUTE,
    CHILDREN,
    INITIALIZER,
    MAX_DEPTH,
    NODE,
    NODE_METADATA,
    SPARSE_INITIALIZER,
    Graph,
    Initializer,
    Node,
    NodePlaces,
)
from optimum_htp.onnxfile.tensors import TensorSpec, dtype_name, integer, tensor_spec
from optimum_htp.onnxfile.wire import LENGTH_DELIMITED, VARINT, ByteWindow, Field, walk

__all__ = ["graph_of", "read_graph"]


def read_graph(path: str | os.PathLike[str]) -> Graph:
    """Return the structure of an ONNX file's graph. Reads everything except the weights.

    Raises:
        OnnxFileNotFoundError: The path does not exist.
        InvalidOnnxFileError: The file is not an ONNX model.
    """
    with opened(path, chunk=1 << 16) as window:
        return graph_of(window)


def graph_of(window: ByteWindow, places: NodePlaces | None = None) -> Graph:
    """Return the structure of a ModelProto's graph.

    Args:
        window: The open file.
        places: Receives the offsets of the graph's own nodes.
    """
    window.begin_pass()
    places = NodePlaces() if places is None else places
    name, has_graph, functions = "", False, 0
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    nodes: list[Node] = []
    initializers: list[Initializer] = []
    others: list[Initializer] = []
    for graph in walk(window, 0, window.size):
        if graph.wire_type != LENGTH_DELIMITED or graph.number not in CHILDREN["model"]:
            continue
        kind = CHILDREN["model"][graph.number]
        if kind != "graph":
            functions += 1
            nodes += (_in_function(node, functions) for node in _nodes(window, graph, kind, (), 1, []))
            continue
        has_graph = True
        for part in walk(window, graph.payload, graph.end):
            if part.wire_type != LENGTH_DELIMITED:
                continue
            if part.number == NODE:
                node = plain_node(window, part, ())
                if node is None:
                    nodes += _read_node(window, part, (), 1, others)
                else:
                    nodes.append(node)
                places.add(part.start, part.payload, part.end, None if node is None else node.metadata)
            elif part.number == INITIALIZER:
                initializers.append(_initializer(window, part))
            elif part.number == 2:
                name = window.text(part)
            elif part.number == GRAPH_INPUT:
                inputs.append(tensor_spec(window, part))
            elif part.number == GRAPH_OUTPUT:
                outputs.append(tensor_spec(window, part))
            elif part.number == SPARSE_INITIALIZER:
                others += _sparse(window, part)
    if not has_graph:
        raise window.invalid("it has no graph")
    # Files of IR version 3 list them among the inputs; ONNX Runtime does not report them as inputs.
    weights = {tensor.name for tensor in initializers}
    given = tuple(spec for spec in inputs if spec.name not in weights)
    return Graph(name, given, tuple(outputs), tuple(nodes), tuple(initializers), tuple(others))


def _in_function(node: Node, number: int) -> Node:
    """Return a node of a function's body with other names of its values, which are separate from the graph's."""

    def own(values: Sequence[str]) -> tuple[str, ...]:
        return tuple(f"{value} (function {number})" if value else "" for value in values)

    return node._replace(inputs=own(node.inputs), outputs=own(node.outputs))


def _node(window: ByteWindow, fields: Sequence[Field], within: tuple[str, ...]) -> Node:
    """Decode a NodeProto: input = 1, output = 2, name = 3, op_type = 4, domain = 7, metadata_props = 9."""
    texts = {3: "", 4: "", 7: ""}
    inputs: list[str] = []
    outputs: list[str] = []
    metadata: dict[str, str] = {}
    for inner in fields:
        if inner.wire_type != LENGTH_DELIMITED:
            continue
        if inner.number == 1:
            inputs.append(window.text(inner))
        elif inner.number == 2:
            outputs.append(window.text(inner))
        elif inner.number in texts:
            texts[inner.number] = window.text(inner)
        elif inner.number == NODE_METADATA:
            key, value = entry(window, inner)
            metadata[key] = value
    integers = _integers(window, fields) if texts[4] in WITH_INTEGERS else {}
    return Node(texts[3], texts[4], texts[7], tuple(inputs), tuple(outputs), metadata, within, integers)


def _integers(window: ByteWindow, fields: Iterable[Field]) -> dict[str, int]:
    """Decode the integer attributes. AttributeProto: name = 1, i = 3."""
    found: dict[str, int] = {}
    for attribute in fields:
        if attribute.number != ATTRIBUTE or attribute.wire_type != LENGTH_DELIMITED:
            continue
        name, value = "", None
        for part in walk(window, attribute.payload, attribute.end):
            if part.number == 1 and part.wire_type == LENGTH_DELIMITED:
                name = window.text(part)
            elif part.number == 3 and part.wire_type == VARINT:
                value = integer(window, part)
        if value is not None:
            found[name] = value
    return found


def _nodes(
    window: ByteWindow, message: Field, kind: str, within: tuple[str, ...], depth: int, tensors: list[Initializer]
) -> Iterator[Node]:
    """Yield the nodes in a message; its tensors are appended to a list."""
    if depth > MAX_DEPTH:
        raise window.invalid(f"graphs are nested more than {MAX_DEPTH} deep")
    children = CHILDREN[kind]
    for part in walk(window, message.payload, message.end):
        if part.wire_type != LENGTH_DELIMITED:
            continue
        if kind == "graph" and part.number == INITIALIZER:
            tensors.append(_initializer(window, part))
        elif kind == "graph" and part.number == SPARSE_INITIALIZER:
            tensors += _sparse(window, part)
        elif children.get(part.number) == "node":
            yield from _read_node(window, part, within, depth, tensors)
        elif part.number in children:
            yield from _nodes(window, part, children[part.number], within, depth + 1, tensors)


def _read_node(
    window: ByteWindow, part: Field, within: tuple[str, ...], depth: int, tensors: list[Initializer]
) -> Iterator[Node]:
    """Yield a node, and the nodes in its subgraphs; its tensors are appended to a list."""
    short = plain_node(window, part, within)
    if short is not None:
        yield short
        return
    window.allow_text_of(part)
    fields = list(walk(window, part.payload, part.end))
    node = _node(window, fields, within)
    yield node
    attributes = [one for one in fields if one.number == ATTRIBUTE and one.wire_type == LENGTH_DELIMITED]
    if node.op_type == "Constant" and node.outputs:
        tensors += (tensor._replace(name=node.outputs[0]) for one in attributes for tensor in _constant(window, one))
        return
    inside = (*within, node.name or node.op_type)
    for attribute in attributes:
        if may_hold_graph(window, attribute):
            yield from _nodes(window, attribute, "attribute", inside, depth + 2, tensors)


def _constant(window: ByteWindow, attribute: Field) -> Iterator[Initializer]:
    """Yield the tensor in an attribute of a `Constant`. AttributeProto: t = 5, sparse_tensor = 22."""
    for part in walk(window, attribute.payload, attribute.end):
        if part.wire_type == LENGTH_DELIMITED and part.number == 5:
            yield _initializer(window, part)
        elif part.wire_type == LENGTH_DELIMITED and part.number == 22:
            yield from _sparse(window, part)


def _sparse(window: ByteWindow, part: Field) -> Iterator[Initializer]:
    """Decode a SparseTensorProto: values = 1, with the tensor's name, and dims = 3. Its shape is the dense one."""
    dense = _initializer(window, part, dims=3)
    for inner in walk(window, part.payload, part.end):
        if inner.number == 1 and inner.wire_type == LENGTH_DELIMITED:
            yield _initializer(window, inner)._replace(shape=dense.shape)


def _initializer(window: ByteWindow, part: Field, dims: int = 1) -> Initializer:
    """Decode a TensorProto's dims = 1 (packed or not), data_type = 2 and name = 8."""
    window.allow_text_of(part)
    if dims == 1 and (plain := plain_tensor(window, part)) is not None:
        return plain
    name, number = "", 0
    shape: list[int] = []
    for inner in walk(window, part.payload, part.end):
        if inner.number == dims and inner.wire_type == VARINT:
            shape.append(integer(window, inner))
        elif inner.number == dims and inner.wire_type == LENGTH_DELIMITED:
            position = inner.payload
            while position < inner.end:
                size, position = window.varint(position, inner.end)
                shape.append(size)
        elif inner.number == 2 and inner.wire_type == VARINT:
            number = integer(window, inner)
        elif inner.number == 8 and inner.wire_type == LENGTH_DELIMITED:
            name = window.text(inner)
    return Initializer(name, tuple(shape), dtype_name(number))
