"""Infers the modules of nodes without a scope from the nodes around them in the graph.

A node computes inside the innermost module around all known nodes that its values lead to and come from. It may be in
a submodule of that module. The exact module is known only if all of these nodes are of one module.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from optimum_htp.hierarchy.rules import LAST_RESORTS, Found, Rule
from optimum_htp.hierarchy.tree import ROOT, ModuleTree, is_inside
from optimum_htp.onnxfile import Graph, Node

__all__ = ["follow_neighbours"]

_MAKERS: Final = 16  # Nodes that make a value: a graph has one, its branches have one each.

# Quantizers insert these before the nodes that they quantize.
_IN_FRONT: Final = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})

_AT_USERS: Final = _IN_FRONT | {
    "Constant",
    "Identity",
    "Cast",
    "Transpose",
}  # Operators between weights and the nodes that use them.

_KEPT: Final = _IN_FRONT | {"Cast", "Constant", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
_LINEAR: Final = _KEPT | {"Add", "FusedMatMul", "Gemm", "MatMul", "MatMulInteger", "MatMulIntegerToFloat", "Mul"}
_CONVOLUTION: Final = _KEPT | {"Add", "Conv", "ConvInteger", "ConvTranspose", "FusedConv", "Mul", "Pad"}
_NORM: Final = _KEPT | {
    "Add",
    "BatchNormalization",
    "Div",
    "InstanceNormalization",
    "LayerNormalization",
    "Mul",
    "Pow",
    "Reciprocal",
    "ReduceMean",
    "Shape",
    "Sqrt",
    "Sub",
}
_EMBEDDING: Final = _KEPT | {"Gather", "GatherBlockQuantized"}
_OPERATORS: Final[Mapping[str, frozenset[str]]] = {
    **dict.fromkeys(("Linear", "Conv1D", "NonDynamicallyQuantizableLinear"), frozenset(_LINEAR)),
    **dict.fromkeys(
        (f"Conv{transposed}{rank}d" for transposed in ("", "Transpose") for rank in (1, 2, 3)), frozenset(_CONVOLUTION)
    ),
    **dict.fromkeys(
        ("LayerNorm", "GroupNorm", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "InstanceNorm2d", "RMSNorm"),
        frozenset(_NORM),
    ),
    "Embedding": frozenset(_EMBEDDING),
}
"""The operators that PyTorch's own modules are exported to. Other operators belong to an outer module."""


def follow_neighbours(graph: Graph, tree: ModuleTree, found: Found) -> None:
    """Add missing nodes to the found ones, as far as their neighbours determine them."""
    links = _Links(graph)
    missing = [index for index in range(len(graph.nodes)) if index not in found]
    if not missing:
        return
    executed = _Executed(links, found)
    _place_computed(links, tree, executed, found, [index for index in missing if links.is_computed[index]])
    _place_constant(links, tree, executed, found, [index for index in missing if index not in found])
    _place_by_order(graph.nodes, tree, found)


class _Links:
    """The nodes that make values, and the nodes that use them.

    Attributes:
        nodes: The nodes of the graph.
        is_computed: For each node whether it depends on an input of the graph.
    """

    def __init__(self, graph: Graph) -> None:
        self.nodes = graph.nodes
        self._users: dict[str, list[int]] = defaultdict(list)
        self._makers: dict[str, list[int]] = defaultdict(list)
        for index, node in enumerate(self.nodes):
            for value in dict.fromkeys(filter(None, node.inputs)):
                self._users[value].append(index)
            for value in filter(None, node.outputs):
                if len(self._makers[value]) < _MAKERS:
                    self._makers[value].append(index)
        self._results = {spec.name for spec in graph.outputs}
        self._weights = {tensor.name for tensor in graph.tensors}
        self.holders, self.inside = _nesting(self.nodes)
        self.is_computed = [False] * len(self.nodes)
        for _ in range(2):  # Nodes of subgraphs may be out of order.
            for index in range(len(self.nodes)):
                self.is_computed[index] = index in self.inside or any(
                    self.is_given(value) or any(self.is_computed[maker] for maker in self._makers.get(value, ()))
                    for value in filter(None, self.nodes[index].inputs)
                )

    def is_given(self, value: str) -> bool:
        """Whether a value is an input of the graph, or of a subgraph."""
        return value not in self._makers and value not in self._weights

    def is_result(self, index: int) -> bool:
        """Whether the graph returns a value of a node."""
        return any(value in self._results for value in self.nodes[index].outputs)

    def makers(self, index: int) -> Iterable[int]:
        """Return the nodes whose values a node uses."""
        found = (maker for value in self.nodes[index].inputs for maker in self._makers.get(value, ()))
        return (maker for maker in found if maker != index)

    def users(self, index: int) -> Iterable[int]:
        """Return the nodes that use a node's values; for the end of a subgraph, the users of the outer node."""
        made = [value for value in dict.fromkeys(self.nodes[index].outputs) if index in self._makers.get(value, ())]
        users = [user for value in made for user in self._users.get(value, ()) if user != index]
        if not users and index in self.holders:
            return self.users(self.holders[index])
        return users


def _place_computed(
    links: _Links, tree: ModuleTree, executed: _Executed, found: Found, missing: Sequence[int]
) -> None:
    """Find nodes that depend on inputs: inside the module around all known nodes before and after them."""
    root = tree.names.get(ROOT, ROOT)
    known = dict(found)
    before: dict[int, str | None] = {}
    behind: dict[int, str | None] = {}

    def around(indexes: Iterable[int], reached: Mapping[int, str | None], ends: bool) -> str | None:
        modules = {root} if ends else set()
        for index in indexes:
            module = known[index][0] if index in known else reached.get(index)
            if module is not None and links.is_computed[index]:
                modules.add(module)
        return tree.common(modules) if modules else None

    for _ in range(2):
        for index in missing:
            given = any(links.is_given(value) for value in filter(None, links.nodes[index].inputs))
            before[index] = around(links.makers(index), before, given)
        for index in reversed(missing):
            behind[index] = around(links.users(index), behind, links.is_result(index))
    for index in reversed(missing):
        if index in links.inside:
            inner = [found[one][0] for one in links.inside[index] if one in found]
            if inner:
                found[index] = tree.common(inner), Rule.DATA_FLOW
                continue
        modules = [module for module in (before[index], behind[index]) if module is not None]
        if not modules or links.nodes[index].op_type in _IN_FRONT:
            continue
        module = tree.common(modules)
        if modules == [module] * 2 and _may_be_in(links.nodes[index], module, tree):
            found[index] = module, Rule.DATA_FLOW
            continue
        during = executed.during(index, tree)
        if during is not None and is_inside(during, module) and is_inside(behind[index] or ROOT, during):
            module = during
        found[index] = tree.holder(module), Rule.ENCLOSING


def _place_constant(
    links: _Links, tree: ModuleTree, executed: _Executed, found: Found, missing: Sequence[int]
) -> None:
    """Find constants and nodes of quantizers: they belong to the nodes that use them.

    Values that are computed from constants only may be passed from one module to another.
    """
    for _ in range(2):
        for index in reversed(missing):
            users = [found[user] for user in links.users(index) if user in found]
            if index in found or not users:
                continue
            module = tree.common(module for module, _ in users)
            is_sure = all(rule not in LAST_RESORTS for _, rule in users)
            if links.nodes[index].op_type not in _AT_USERS and (during := executed.during(index, tree)) is not None:
                module, users_module = tree.common((module, during)), module
                is_sure = is_sure and module == users_module
            if _may_be_in(links.nodes[index], module, tree):
                found[index] = module, Rule.DATA_FLOW if is_sure else Rule.ENCLOSING
            else:
                found[index] = tree.holder(module), Rule.ENCLOSING


def _place_by_order(nodes: Sequence[Node], tree: ModuleTree, found: Found) -> None:
    """Find nodes without inputs and users. Exporters write nodes in the order of execution."""
    behind: list[int | None] = [None] * len(nodes)
    for index in range(len(nodes) - 1, 0, -1):
        behind[index - 1] = index if index in found else behind[index]
    for index, node in enumerate(nodes):
        if index in found or node.inputs or not index:
            continue
        around = [
            found[neighbour][0]
            for neighbour in (index - 1, behind[index])
            if neighbour is not None and neighbour in found
        ]
        if around:
            found[index] = tree.common(around), Rule.ORDER


class _Executed:
    """The order of the file, in which exporters write nodes as they are executed."""

    def __init__(self, links: _Links, known: Found) -> None:
        self._modules: list[tuple[str | None, str | None]] = []
        count = len(links.nodes)
        counted = [known[index][0] if index in known and links.is_computed[index] else None for index in range(count)]
        behind: list[str | None] = [None] * (count + 1)
        for index in range(count - 1, -1, -1):
            behind[index] = counted[index] if counted[index] is not None else behind[index + 1]
        before: str | None = None
        for index in range(count):
            self._modules.append((before, behind[index]))
            before = counted[index] if counted[index] is not None else before

    def during(self, index: int, tree: ModuleTree) -> str | None:
        """Return the module around the known nodes before and after a node; None at the ends of the graph."""
        before, behind = self._modules[index]
        return None if before is None or behind is None else tree.holder(tree.common((before, behind)))


def _may_be_in(node: Node, module: str, tree: ModuleTree) -> bool:
    """Whether a module of this class is exported to such a node."""
    operators = _OPERATORS.get(tree.classes.get(module, ""))
    return operators is None or node.op_type in operators


def _nesting(nodes: Sequence[Node]) -> tuple[dict[int, int], dict[int, list[int]]]:
    """Return the outer node of each node in a subgraph, and the nodes in the subgraphs of each node."""
    holders: dict[int, int] = {}
    inside: dict[int, list[int]] = defaultdict(list)
    around: list[int] = []
    for index, node in enumerate(nodes):
        del around[len(node.within) :]
        if around:
            holders[index] = around[-1]
        for outer in around:
            inside[outer].append(index)
        around.append(index)
    return holders, inside
