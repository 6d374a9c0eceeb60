"""The structure of a graph as small records, and the fields in which nodes and tensors occur in a ModelProto.

Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from optimum_htp.onnxfile.reader import GRAPH
from optimum_htp.onnxfile.tensors import TensorSpec

__all__ = ["Graph", "Initializer", "Node", "NodePlaces"]

FUNCTION: Final = 25  # Field of ModelProto.
NODE_METADATA: Final = 9
NODE: Final = 1  # Field of GraphProto.
INITIALIZER: Final = 5
SPARSE_INITIALIZER: Final = 15
ATTRIBUTE: Final = 5  # Field of NodeProto.
MAX_DEPTH: Final = 100  # Levels of nested messages, as in protobuf.

MESSAGES: Final[Mapping[str, Mapping[int, str]]] = {
    "model": {GRAPH: "graph", FUNCTION: "function"},
    "graph": {NODE: "node", INITIALIZER: "tensor", SPARSE_INITIALIZER: "sparse"},
    "function": {7: "node"},
    "node": {ATTRIBUTE: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
"""The fields of each kind of message that lead to nodes and tensors, and the kinds of their content."""

CHILDREN: Final[Mapping[str, Mapping[int, str]]] = {
    kind: {number: inner for number, inner in fields.items() if inner not in ("tensor", "sparse")}
    for kind, fields in MESSAGES.items()
}
"""The fields that lead to nodes."""

NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class Node(NamedTuple):
    """A NodeProto, with only those attributes that are needed to interpret its weights.

    Attributes:
        within: Names of the nodes whose subgraphs contain it, outermost first.
        integers: Integer attributes of the operators in `WITH_INTEGERS`; otherwise empty.
    """

    name: str
    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    metadata: Mapping[str, str]
    within: tuple[str, ...] = ()
    integers: Mapping[str, int] = NOTHING


class Initializer(NamedTuple):
    """A TensorProto without its content."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class NodePlaces:
    """The offsets of a graph's nodes in a file, in order, with the metadata of nodes in the usual form.

    Models have tens of thousands of nodes, so the offsets are stored as numbers, not as a record per node.
    """

    def __init__(self) -> None:
        self._offsets = array("Q")
        self._metadata: list[Mapping[str, str] | None] = []

    def add(self, start: int, payload: int, end: int, metadata: Mapping[str, str] | None) -> None:
        """Add a node: the offsets of its field, and its metadata if it was read by `plain_node`, else None."""
        self._offsets.extend((start, payload, end))
        self._metadata.append(metadata)

    def __len__(self) -> int:
        return len(self._metadata)

    def __iter__(self) -> Iterator[tuple[int, int, int, Mapping[str, str] | None]]:
        offsets = iter(self._offsets)
        return zip(offsets, offsets, offsets, self._metadata, strict=True)


@dataclass(frozen=True)
class Graph:
    """The structure of a model's graph. Nodes include those of subgraphs and functions.

    A function's values have separate names here: ` (function 1)` is appended to the names in the file.

    Attributes:
        initializers: The graph's own dense initializers.
        others: Sparse initializers, those of subgraphs, and the values of `Constant` nodes of more than a kilobyte.
    """

    name: str = ""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    nodes: tuple[Node, ...] = field(default=(), repr=False)
    initializers: tuple[Initializer, ...] = field(default=(), repr=False)
    others: tuple[Initializer, ...] = field(default=(), repr=False)

    @property
    def tensors(self) -> tuple[Initializer, ...]:
        """All tensors that may be weights."""
        return (*self.initializers, *self.others)
