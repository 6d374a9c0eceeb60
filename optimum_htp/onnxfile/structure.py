"""The structure of a graph as small records, and where nodes and tensors occur in a ModelProto.

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

FUNCTION: Final = 25  # in ModelProto
NODE_METADATA: Final = 9
NODE: Final = 1  # in GraphProto
INITIALIZER: Final = 5
SPARSE_INITIALIZER: Final = 15
ATTRIBUTE: Final = 5  # in NodeProto
MAX_DEPTH: Final = 100  # of nested messages, as protobuf's own

MESSAGES: Final[Mapping[str, Mapping[int, str]]] = {
    "model": {GRAPH: "graph", FUNCTION: "function"},
    "graph": {NODE: "node", INITIALIZER: "tensor", SPARSE_INITIALIZER: "sparse"},
    "function": {7: "node"},
    "node": {ATTRIBUTE: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
"""Where nodes and tensors occur: the fields of each kind of message that lead to some, and what they hold."""

CHILDREN: Final[Mapping[str, Mapping[int, str]]] = {
    kind: {number: inner for number, inner in fields.items() if inner not in ("tensor", "sparse")}
    for kind, fields in MESSAGES.items()
}
"""Where nodes occur, tensors left aside."""

NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class Node(NamedTuple):
    """A NodeProto, of its attributes only what its weights cannot be understood without.

    Attributes:
        within: Names of the nodes whose subgraphs it lies in, outermost first.
        integers: Of `WITH_INTEGERS` the attributes that are integers; else empty.
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
    """Where the nodes of a graph are in a file, in its order, with the metadata of plain ones.

    Models have tens of thousands, so the offsets are kept as numbers, and not as a record for each node.
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

    A function's values have names of their own here: ` (function 1)` is behind those that the file has.

    Attributes:
        initializers: The graph's own, of those that are dense.
        others: The sparse ones, those of subgraphs, and the values of `Constant` nodes of more than a kilobyte.
    """

    name: str = ""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    nodes: tuple[Node, ...] = field(default=(), repr=False)
    initializers: tuple[Initializer, ...] = field(default=(), repr=False)
    others: tuple[Initializer, ...] = field(default=(), repr=False)

    @property
    def tensors(self) -> tuple[Initializer, ...]:
        """All that a weight may be."""
        return (*self.initializers, *self.others)
