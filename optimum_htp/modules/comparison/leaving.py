"""The output values of each module of a graph: computed inside, and used outside or returned."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optimum_htp.hierarchy.assign import Assignment
from optimum_htp.hierarchy.parts import part_tree
from optimum_htp.hierarchy.scopes import ScopeResolver, is_called_inside, scope_of
from optimum_htp.hierarchy.tree import ROOT, ancestors, is_inside
from optimum_htp.onnxfile import Graph

__all__ = ["Leaving", "leaving_values"]


@dataclass(frozen=True)
class Leaving:
    """The values that cross the borders of modules.

    Attributes:
        values: For each module, in order of execution, its output values, in the order of their computation. Values
            inside branches of a graph are left out, because they cannot be outputs of the graph.
        entering: For each module its input values.
    """

    values: Mapping[str, Sequence[str]]
    entering: Mapping[str, Sequence[str]]


def leaving_values(graph: Graph, assignment: Assignment) -> Leaving:
    """Return the output values of each module. A module is placed where the last of its values is computed."""
    chains = _chains(graph, assignment)
    users: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for node, chain in zip(graph.nodes, chains, strict=True):
        for value in node.inputs:
            users[value].add(chain)
    given = {spec.name for spec in graph.outputs}
    makers: dict[str, tuple[str, ...]] = {}
    values: dict[str, list[str]] = {}
    for node, chain in zip(graph.nodes, chains, strict=True):
        if node.within or node.op_type == "Constant":
            continue
        for value in node.outputs:
            if not value:
                continue
            makers[value] = chain
            for around in chain:
                if value in given or around == ROOT or any(around not in user for user in users[value]):
                    if around == ROOT and value not in given:
                        continue
                    values[around] = [*values.pop(around, ()), value]  # Move it to the end.
    entering: dict[str, dict[str, None]] = defaultdict(dict)
    for node, chain in zip(graph.nodes, chains, strict=True):
        for value in node.inputs:
            if value in makers:
                for around in chain:
                    if around not in makers[value]:
                        entering[around][value] = None
    return Leaving(values, {module: list(known) for module, known in entering.items()})


def _chains(graph: Graph, assignment: Assignment) -> list[tuple[str, ...]]:
    """Return for each node the modules whose calls contain it, from the innermost on."""
    tree = part_tree(graph, assignment.tree)
    root = tree.names.get(ROOT, ROOT)
    resolver = ScopeResolver(tree)
    known: dict[tuple[str, tuple[str, ...] | None], tuple[str, ...]] = {}
    chains = []
    for node, module in zip(graph.nodes, assignment.modules, strict=True):
        key = module, scope_of(node.name)
        if key not in known:
            scope = key[1]
            around = [
                outer
                for outer in ancestors(module)
                if scope is None
                or is_inside(root, outer)
                or is_called_inside(resolver, tree, scope, outer) is not False
            ]
            known[key] = (module, *around)
        chains.append(known[key])
    return chains
