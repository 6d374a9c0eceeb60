"""What each module of a model costs in a graph: nodes, operators, parameters and bytes, its own and with its modules.

An initializer belongs to the module of the nodes that use it, or to their common module where several do.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Final

from optimum_htp.hierarchy.assign import Assignment
from optimum_htp.hierarchy.tree import ROOT, ModuleTree, ancestors, parent_of
from optimum_htp.onnxfile import Graph
from optimum_htp.onnxfile.tensors import bits_of

__all__ = ["ModuleSummary", "summarize"]

# A shared weight passes through these on its way to the nodes that use it.
_PASSED_THROUGH: Final = frozenset({"Identity", "Cast", "Transpose", "DequantizeLinear"})


@dataclass
class ModuleSummary:
    """A module's costs.

    Attributes:
        name: In the whole model; empty for the root.
        class_name: Its class; empty where that is not known.
        depth: Levels below the root.
        own_nodes, nodes: Number of nodes, its own and with those of the modules in it.
        operators: Number of nodes by operator, with those of the modules in it.
        own_parameters, parameters: Number of elements of initializers.
        own_bytes, bytes: What those take, in bytes.
        own_microseconds, microseconds: Time of its nodes, where they were timed.
        children: Modules in it that have nodes.
    """

    name: str
    class_name: str
    depth: int
    own_nodes: int = 0
    nodes: int = 0
    operators: Counter[str] = field(default_factory=Counter)
    own_parameters: int = 0
    parameters: int = 0
    own_bytes: int = 0
    bytes: int = 0
    own_microseconds: float = 0.0
    microseconds: float = 0.0
    children: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data, the most frequent operators first."""
        plain = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        return {**plain, "operators": dict(self.operators.most_common())}


def summarize(
    graph: Graph, assignment: Assignment, microseconds: Mapping[int, float] | None = None
) -> dict[str, ModuleSummary]:
    """Return the modules that own nodes, and those around them, in the order of the graph; the root first.

    Args:
        graph: The graph.
        assignment: The modules of its nodes.
        microseconds: Time of each node, by its index.
    """
    tree = assignment.tree
    modules: dict[str, ModuleSummary] = {ROOT: _new(ROOT, tree, 0)}
    for index, name in enumerate(assignment.modules):
        module = _ensure(modules, tree, name)
        operator = graph.nodes[index].op_type
        spent = (microseconds or {}).get(index, 0.0)
        module.own_nodes += 1
        module.own_microseconds += spent
        for one in (name, *ancestors(name)):
            if one in modules:
                modules[one].nodes += 1
                modules[one].operators[operator] += 1
                modules[one].microseconds += spent
    owners = _owners_of(graph, assignment)
    for tensor in graph.initializers:
        owner = owners.get(tensor.name, ROOT)
        count = prod(tensor.shape)
        size = (count * bits_of(tensor.dtype) + 7) // 8
        module = _ensure(modules, tree, owner)
        module.own_parameters += count
        module.own_bytes += size
        for one in (owner, *ancestors(owner)):
            if one in modules:
                modules[one].parameters += count
                modules[one].bytes += size
    return modules


def _new(name: str, tree: ModuleTree, depth: int) -> ModuleSummary:
    return ModuleSummary(name, tree.classes.get(name, ""), depth)


def _ensure(modules: dict[str, ModuleSummary], tree: ModuleTree, name: str) -> ModuleSummary:
    """Return a module's summary, made with those of the modules around it where it is new. Containers have none."""
    if name not in modules:
        holder = tree.caller(parent_of(name))
        around = _ensure(modules, tree, holder)
        around.children.append(name)
        modules[name] = _new(name, tree, around.depth + 1)
    return modules[name]


def _owners_of(graph: Graph, assignment: Assignment) -> dict[str, str]:
    users: dict[str, list[int]] = defaultdict(list)
    for index, node in enumerate(graph.nodes):
        for value in node.inputs:
            users[value].append(index)

    def modules_using(value: str, depth: int = 0) -> set[str]:
        found = set()
        for index in users.get(value, ()):
            node = graph.nodes[index]
            found.add(assignment.modules[index])
            if node.op_type in _PASSED_THROUGH and depth < len(_PASSED_THROUGH):
                found |= {module for output in node.outputs for module in modules_using(output, depth + 1)}
        return found

    found = {tensor.name: modules_using(tensor.name) for tensor in graph.initializers}
    return {name: assignment.tree.common(modules) for name, modules in found.items() if modules}
