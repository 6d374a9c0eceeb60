"""Modules across passes that rewrite a graph: optimisers, quantisers, converters, merged decoders.

Passes drop node metadata and keep the names of values. A node that makes a value under its old name with its old
operator is the old node. One with another operator has replaced nodes: those between its values in the old graph,
and it belongs to their common module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from optimum_htp.hierarchy.assign import Assignment, Found, Rule, complete
from optimum_htp.hierarchy.scopes import ScopeResolver
from optimum_htp.hierarchy.tree import ModuleTree
from optimum_htp.onnxfile import Graph

__all__ = ["Original", "carry"]

_UNPLACED: Final = ("Constant",)  # they are where they are used, and say nothing of where a fused node is
_MUCH: Final = 0.5


@dataclass(frozen=True)
class Original:
    """A graph before a pass, and the modules of its nodes."""

    graph: Graph
    assignment: Assignment


def carry(originals: Sequence[Original], graph: Graph, resolver: ScopeResolver, tree: ModuleTree) -> Assignment:
    """Return the modules of a rewritten graph's nodes.

    Args:
        originals: The graphs that it may have been made from; those that share few values with it are left aside.
        graph: What the pass made.
        resolver: For the names of nodes that are new.
        tree: The modules.
    """
    values = {value for node in graph.nodes for value in node.outputs if value}
    found: Found = {}
    for original in originals:
        theirs = {value for node in original.graph.nodes for value in node.outputs if value}
        if len(originals) > 1 and len(theirs & values) < _MUCH * len(theirs):
            continue
        for index, one in _carried(original, graph, values, tree).items():
            if index not in found or found[index][1] is Rule.FUSED:  # another original may have the node itself
                found[index] = one
    return complete(graph, resolver, tree, found)


def _carried(original: Original, graph: Graph, values: set[str], tree: ModuleTree) -> Found:
    """Return what one original tells of a graph's nodes."""
    nodes, modules = original.graph.nodes, original.assignment.modules
    makers = {value: index for index, node in enumerate(nodes) for value in node.outputs if value}
    named = {node.name: index for index, node in enumerate(nodes) if node.name}
    found: Found = {}
    for index, node in enumerate(graph.nodes):
        old = [makers[value] for value in node.outputs if value in makers]
        if any(nodes[one].op_type == node.op_type for one in old):
            same = next(one for one in old if nodes[one].op_type == node.op_type)
            found[index] = modules[same], original.assignment.rules[same]
        elif node.name in named and nodes[named[node.name]].op_type == node.op_type:
            found[index] = modules[named[node.name]], Rule.CARRIED_NAME  # it took in what followed it
        elif old:
            replaced = _between(original.graph, makers, old, values - set(node.outputs))
            found[index] = tree.common(modules[one] for one in replaced), Rule.FUSED
    return found


def _between(graph: Graph, makers: dict[str, int], last: list[int], kept: set[str]) -> list[int]:
    """Return the nodes that lead to some, back to the values that are still made."""
    seen: set[int] = set()
    waiting = list(last)
    while waiting:
        index = waiting.pop()
        if index in seen:
            continue
        seen.add(index)
        waiting += [makers[value] for value in graph.nodes[index].inputs if value in makers and value not in kept]
    placed = [index for index in seen if graph.nodes[index].op_type not in _UNPLACED]
    return placed or last
