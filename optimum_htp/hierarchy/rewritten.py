"""Finds the modules of nodes after passes that rewrite a graph: optimizers, quantizers, converters, merged decoders.

Passes drop node metadata and keep the names of values. A node that makes a value with its old name and its old
operator is the old node. A node with another operator has replaced the nodes between its values in the old graph, and
belongs to their common module.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Final

from optimum_htp.hierarchy.assign import Assignment, complete
from optimum_htp.hierarchy.rules import Found, Rule
from optimum_htp.hierarchy.scopes import ScopeResolver
from optimum_htp.hierarchy.tree import ModuleTree, shared_path
from optimum_htp.onnxfile import Graph

__all__ = ["Original", "assign_rewritten", "shared_values"]

_UNPLACED: Final = ("Constant",)  # They belong to the nodes that use them, so they do not locate a fused node.
_MUCH: Final = 0.5


@dataclass(frozen=True)
class Original:
    """A graph before a pass, and the modules of its nodes."""

    graph: Graph
    assignment: Assignment


def assign_rewritten(
    originals: Sequence[Original], graph: Graph, resolver: ScopeResolver, tree: ModuleTree
) -> Assignment:
    """Return the modules of a rewritten graph's nodes.

    Originals with few shared values are ignored. The resolver is for the names of new nodes.
    """
    values = {value for node in graph.nodes for value in node.outputs if value}
    found: Found = {}
    for original in originals:
        theirs = {value for node in original.graph.nodes for value in node.outputs if value}
        if len(originals) > 1 and len(theirs & values) < _MUCH * len(theirs):
            continue
        for index, module in _carried(original, graph, values, tree).items():
            if index not in found or found[index][1] is Rule.FUSED:  # Another original may contain the node itself.
                found[index] = module
    return complete(graph, resolver, tree, found)


def shared_values(original: Graph, graph: Graph) -> float:
    """Return the share of the smaller graph's values whose names both graphs have, from 0 to 1."""
    ours, theirs = ({value for node in one.nodes for value in node.outputs if value} for one in (original, graph))
    return len(ours & theirs) / max(min(len(ours), len(theirs)), 1)


def _carried(original: Original, graph: Graph, values: set[str], tree: ModuleTree) -> Found:
    """Return the modules of a graph's nodes from one original."""
    nodes, modules = original.graph.nodes, original.assignment.modules
    regions = _Regions(original, values)
    makers = regions.makers
    named = {node.name: index for index, node in enumerate(nodes) if node.name}
    found: Found = {}
    for index, node in enumerate(graph.nodes):
        old = [makers[value] for value in node.outputs if value in makers]
        if any(nodes[maker].op_type == node.op_type for maker in old):
            same = next(maker for maker in old if nodes[maker].op_type == node.op_type)
            found[index] = modules[same], original.assignment.rules[same]
        elif node.name in named and nodes[named[node.name]].op_type == node.op_type:
            found[index] = modules[named[node.name]], Rule.CARRIED_NAME  # It includes the following node.
        elif old:
            replaced = [home for maker in old if (home := regions.home(maker)) is not None]
            found[index] = tree.common(replaced or (modules[maker] for maker in old)), Rule.FUSED
    return found


class _Regions:
    """The nodes that lead to a node of the original graph, back to the values that still exist.

    `kept` are the values that the rewritten graph also makes.
    """

    def __init__(self, original: Original, kept: Set[str]) -> None:
        self._nodes = original.graph.nodes
        self._modules = original.assignment.modules
        self._kept = kept
        self._homes: dict[int, str | None] = {}
        self.makers = {value: index for index, node in enumerate(self._nodes) for value in node.outputs if value}

    def home(self, last: int) -> str | None:
        """Return the common module of all nodes that lead to a node; None if these are constants.

        Each is visited once.
        """
        started: set[int] = set()
        waiting = [last]
        while waiting:
            index = waiting[-1]
            before = () if index in self._homes else self._before(index)
            if index in started or index in self._homes:
                waiting.pop()
                if index not in self._homes:
                    own = () if self._nodes[index].op_type in _UNPLACED else (self._modules[index],)
                    homes = [*own, *(home for maker in before if (home := self._homes.get(maker)) is not None)]
                    self._homes[index] = functools.reduce(shared_path, homes) if homes else None
            else:
                started.add(index)
                waiting += [maker for maker in before if maker not in started and maker not in self._homes]
        return self._homes[last]

    def _before(self, index: int) -> list[int]:
        values = dict.fromkeys(self._nodes[index].inputs)
        return [self.makers[value] for value in values if value in self.makers and value not in self._kept]
