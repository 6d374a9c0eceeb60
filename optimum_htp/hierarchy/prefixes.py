"""Prefixes that a tool has put before all names of a graph, as `onnx.compose.add_prefix` does: found and left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from optimum_htp.onnxfile import Graph, Node

__all__ = ["without_prefix"]

_MOST: Final = 0.5  # of the nodes have to have the prefix
_PIECES: Final = 4  # of a name in which a prefix may end
_LONGEST: Final = 256  # characters


def without_prefix(graph: Graph, fit: Callable[[Graph], float]) -> Graph:
    """Return a graph without the prefix of its names, where it fits better without; else the graph itself.

    Args:
        graph: The graph.
        fit: Returns the share of a graph's names that are understood, from 0 to 1.
    """
    prefixes = list(_prefixes(graph))
    if not prefixes:
        return graph
    candidates = [graph, *(_stripped(graph, prefix) for prefix in prefixes)]
    return max(candidates, key=fit)


def _prefixes(graph: Graph) -> Iterator[str]:
    """Yield what most nodes' names, or else their values' names, begin with: the shortest first."""
    names = [name for node in graph.nodes if (name := _name_of(node))]
    counted: Counter[str] = Counter()
    for name in names:
        if name.startswith("/"):
            continue
        end = -1
        for _ in range(_PIECES):
            end = name.find("/", end + 1, _LONGEST)
            if end < 0:
                break
            counted[name[:end]] += 1
    common = [prefix for prefix, count in counted.items() if count >= _MOST * len(names)]
    yield from sorted(common, key=len)


def _name_of(node: Node) -> str:
    return node.name if "/" in node.name else next(filter(None, node.outputs), "")


def _stripped(graph: Graph, prefix: str) -> Graph:
    def bare(name: str) -> str:
        return name.removeprefix(prefix)

    nodes = (
        node._replace(
            name=bare(node.name),
            inputs=tuple(map(bare, node.inputs)),
            outputs=tuple(map(bare, node.outputs)),
            within=tuple(map(bare, node.within)),
        )
        for node in graph.nodes
    )
    return replace(
        graph,
        inputs=tuple(replace(spec, name=bare(spec.name)) for spec in graph.inputs),
        outputs=tuple(replace(spec, name=bare(spec.name)) for spec in graph.outputs),
        nodes=tuple(nodes),
        initializers=tuple(tensor._replace(name=bare(tensor.name)) for tensor in graph.initializers),
        others=tuple(tensor._replace(name=bare(tensor.name)) for tensor in graph.others),
    )
