"""The values that leave each module of a graph: made inside, and used outside or given out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optimum_htp.hierarchy.assign import Assignment
from optimum_htp.hierarchy.tree import ROOT, ancestors
from optimum_htp.onnxfile import Graph

__all__ = ["Leaving", "leaving_values"]


@dataclass(frozen=True)
class Leaving:
    """What crosses the borders of modules.

    Attributes:
        values: For each module, in order of execution, the values that leave it, in the order in which they are made.
            Values inside branches of a graph are not among them: they cannot be taken out of it.
        entering: For each module the values that come in.
    """

    values: Mapping[str, Sequence[str]]
    entering: Mapping[str, Sequence[str]]


def leaving_values(graph: Graph, assignment: Assignment) -> Leaving:
    """Return the values that leave each module; a module comes where the last of its values is made."""
    chains = {module: (module, *ancestors(module)) for module in set(assignment.modules)}
    users: dict[str, set[str]] = defaultdict(set)
    for node, module in zip(graph.nodes, assignment.modules, strict=True):
        for value in node.inputs:
            users[value].add(module)
    given = {spec.name for spec in graph.outputs}
    makers: dict[str, str] = {}
    values: dict[str, list[str]] = {}
    for node, module in zip(graph.nodes, assignment.modules, strict=True):
        if node.within or node.op_type == "Constant":
            continue
        for value in node.outputs:
            if not value:
                continue
            makers[value] = module
            for around in chains[module]:
                if value in given or around == ROOT or any(around not in chains[user] for user in users[value]):
                    if around == ROOT and value not in given:
                        continue
                    values[around] = [*values.pop(around, ()), value]  # to the end
    entering: dict[str, dict[str, None]] = defaultdict(dict)
    for node, module in zip(graph.nodes, assignment.modules, strict=True):
        for value in node.inputs:
            if value in makers:
                for around in chains[module]:
                    if around not in chains[makers[value]]:
                        entering[around][value] = None
    return Leaving(values, {module: list(known) for module, known in entering.items()})
