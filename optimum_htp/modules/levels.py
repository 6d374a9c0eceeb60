"""A model's graphs as levels: a subgraph of an `If` or a `Loop` is a level inside another, without the weights.

A node can use the values of its own level and of the levels around it, so outside values are searched level by level.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from optimum_htp.hierarchy.tags import MODULE
from optimum_htp.hierarchy.tree import ROOT
from optimum_htp.onnxfile.submodel import GraphPlace

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

__all__ = ["Level", "levels_of", "subgraphs"]


@dataclass(frozen=True, eq=False)
class Level:
    """A graph.

    Attributes:
        graph: The graph; large tensors have no content.
        place: Its location in the model.
        outer: The graph around it; None for the model's main graph.
    """

    graph: GraphProto
    place: GraphPlace = ()
    outer: Level | None = None

    @functools.cached_property
    def nodes(self) -> list[NodeProto]:
        """Its nodes, without those of subgraphs."""
        return list(self.graph.node)

    @functools.cached_property
    def modules(self) -> list[str]:
        """The module of each node."""
        return [_module_of(node) for node in self.nodes]

    @functools.cached_property
    def makers(self) -> dict[str, int]:
        """The index of the node that makes each value."""
        return {value: index for index, node in enumerate(self.nodes) for value in node.output if value}

    @functools.cached_property
    def uses(self) -> list[list[str]]:
        """The values that each node uses: its inputs, and the outside values of its subgraphs."""
        return [list(dict.fromkeys(_used(node))) for node in self.nodes]

    @functools.cached_property
    def initializers(self) -> dict[str, int]:
        """The index of each initializer."""
        return {tensor.name: index for index, tensor in enumerate(self.graph.initializer)}

    def chain(self) -> Iterator[Level]:
        """Yield this level and those around it, innermost first."""
        level: Level | None = self
        while level is not None:
            yield level
            level = level.outer


def levels_of(graph: GraphProto) -> Iterator[Level]:
    """Yield a graph and all graphs in it, each after the one around it."""
    waiting = [Level(graph)]
    while waiting:
        level = waiting.pop()
        yield level
        inside = [
            Level(inner, (*level.place, (index, *step)), level)
            for index, node in enumerate(level.nodes)
            for step, inner in subgraphs(node)
        ]
        waiting += reversed(inside)


def subgraphs(node: NodeProto) -> Iterator[tuple[tuple[int, int], GraphProto]]:
    """Yield the graphs in a node, each with the index of its attribute and its index in the attribute."""
    for index, attribute in enumerate(node.attribute):
        own = [attribute.g] if attribute.HasField("g") else []
        for count, graph in enumerate([*own, *attribute.graphs]):
            yield (index, count), graph


def _module_of(node: NodeProto) -> str:
    """Return the module in a node's tag; the root if it has no tag."""
    module = ROOT
    for entry in node.metadata_props:
        if entry.key == MODULE:
            module = entry.value
    return module


def _used(node: NodeProto) -> Iterator[str]:
    yield from filter(None, node.input)
    for _, graph in subgraphs(node):
        yield from _free(graph)


def _free(graph: GraphProto) -> Iterator[str]:
    """Yield the values that a graph uses and does not define."""
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    own |= {value for node in graph.node for value in node.output}
    for node in graph.node:
        yield from (value for value in _used(node) if value not in own)
    yield from (value.name for value in graph.output if value.name not in own)
