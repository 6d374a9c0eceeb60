"""Every node to its module, by rules in a fixed order; each rule's share is counted and told.

A rule that reads what the exporter wrote comes before one that concludes; the root is the last resort.
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from optimum_htp.hierarchy.bounds import is_within_bounds
from optimum_htp.hierarchy.scopes import ScopeResolver, scope_of
from optimum_htp.hierarchy.tree import ROOT, ModuleTree, loose_shape
from optimum_htp.onnxfile import Graph, Node

__all__ = ["DYNAMO_SCOPES", "LAST_RESORTS", "Assignment", "Rule", "assign", "complete", "dynamo_scopes", "dynamo_tree"]

DYNAMO_SCOPES: Final = "pkg.torch.onnx.name_scopes"
_DYNAMO_CLASSES: Final = "pkg.torch.onnx.class_hierarchy"
_LONGEST: Final = 1 << 14  # characters of these
_LONGEST_CLASS: Final = 256
_MAKERS: Final = 16  # of a value that are looked at: a graph has one, its branches another each


class Rule(str, Enum):
    """How a node's module was found, in the order in which the rules are tried."""

    NAME = "name"  # the scope in the node's name
    REPEATED = "repeated_call"  # the same, through a second call of a module
    PARAMETER = "parameter"  # what owns the parameter that it uses, where its scope is a module around or inside that
    DYNAMO = "dynamo"  # what the dynamo exporter wrote beside the node
    CARRIED_NAME = "carried_by_name"  # the node of this name before a pass
    FUSED = "fused"  # the common module of the nodes that it replaced
    VALUE = "value_name"  # the scope in the name of a value that it makes
    DATA_FLOW = "data_flow"  # the common module of the nodes that use its values, or make them
    ORDER = "order"  # the common module of its neighbours in the file: constants that nobody uses
    PARTIAL = "partial_name"  # the innermost module that the scope in its name leads to
    ROOT = "root"  # none of these


LAST_RESORTS: Final = (Rule.PARTIAL, Rule.ROOT)
"""The rules that place a node where it surely is not wrong, and perhaps not where it is."""


@dataclass(frozen=True)
class Assignment:
    """The module of each node of a graph, in the order of the file, and the rule that found it."""

    tree: ModuleTree
    modules: tuple[str, ...]
    rules: tuple[Rule, ...]

    @property
    def coverage(self) -> dict[str, int]:
        """How many nodes each rule found."""
        counted = Counter(rule.value for rule in self.rules)
        return {rule.value: counted[rule.value] for rule in Rule if counted[rule.value]}


Found = dict[int, tuple[str, Rule]]


def assign(
    graph: Graph, resolver: ScopeResolver, tree: ModuleTree, owners: Mapping[str, frozenset[str]] | None = None
) -> Assignment:
    """Return the modules of a graph's nodes, from what the graph itself says.

    Args:
        graph: The graph.
        resolver: For the scopes in its names.
        tree: The modules.
        owners: The modules that own initializers whose names do not say it.
    """
    return complete(graph, resolver, tree, {}, owners)


def complete(
    graph: Graph,
    resolver: ScopeResolver,
    tree: ModuleTree,
    found: Found,
    owners: Mapping[str, frozenset[str]] | None = None,
) -> Assignment:
    """Return the modules of a graph's nodes where those of some are known already.

    Args:
        graph: The graph.
        resolver: For the scopes in its names.
        tree: The modules.
        found: What is known, by index of the node.
        owners: The modules that own initializers whose names do not say it.
    """
    found = dict(found)
    weights = _Weights(graph, tree, owners or {})
    for index, node in enumerate(graph.nodes):
        if index in found:
            continue
        said = _said(node, resolver, tree)
        if said is not None:
            found[index] = said
        owner = weights.owner(node)
        if owner is not None and (
            said is None
            or (owner != said[0] and owner in _others(node, resolver))
            or weights.goes_before(owner, said[0], node)
        ):
            found[index] = owner, Rule.PARAMETER
    _follow_data(graph.nodes, tree, found)
    _follow_order(graph.nodes, tree, found)
    root = tree.names.get(ROOT, ROOT)
    for index, node in enumerate(graph.nodes):
        if index not in found:
            scope = scope_of(node.name)
            module = resolver.resolve(scope).module if scope else root
            found[index] = (module, Rule.PARTIAL) if module != root else (root, Rule.ROOT)
    pairs = [found[index] for index in range(len(graph.nodes))]
    return Assignment(tree, tuple(tree.caller(module) for module, _ in pairs), tuple(rule for _, rule in pairs))


class _Weights:
    """The parameters that a graph's nodes use, and the modules that own them."""

    def __init__(self, graph: Graph, tree: ModuleTree, by_value: Mapping[str, frozenset[str]]) -> None:
        self._shapes = {
            tensor.name: loose_shape(tensor.shape)
            for tensor in graph.initializers
            if "float" in tensor.dtype and loose_shape(tensor.shape)
        }
        self._named = {name: owners for name in self._shapes if (owners := tree.owners(name))}
        self._by_value = by_value
        self._tree = tree

    def owner(self, node: Node) -> str | None:
        """Return the one module that owns the parameters that a node uses.

        By their names; by their values only if that is known of all: of a convolution that took in the batch norm
        behind it the bias may be the norm's, and it still is the convolution.
        """
        used = [self._named[name] for name in node.inputs if name in self._named]
        if not used:
            weights = [name for name in node.inputs if name in self._shapes]
            used = [self._by_value[name] for name in weights if name in self._by_value]
            if len(used) < len(weights):
                return None
        common = frozenset.intersection(*used) if used else frozenset()
        return next(iter(common)) if len(common) == 1 else None

    def goes_before(self, owner: str, module: str, node: Node) -> bool:
        """Whether the owner of its parameters says more of a node than its scope.

        It does where the scope's module has no parameter of such a shape itself: exporters merge parameters of equal
        values, and a module that uses the tied weight of another is still where it is. Where shapes are not known, it
        does where one of both lies in the other.
        """
        if owner == module:
            return False
        if self._tree.shapes:
            own = self._tree.shapes.get(module, frozenset())
            return not any(self._shapes[name] in own for name in node.inputs if name in self._shapes)
        return not owner or not module or owner.startswith(f"{module}.") or module.startswith(f"{owner}.")


def _said(node: Node, resolver: ScopeResolver, tree: ModuleTree) -> tuple[str, Rule] | None:
    """Return what a node itself says: its name, the dynamo exporter's metadata, the names of its values."""
    scope = scope_of(node.name)
    if scope is not None and (known := resolver.resolve(scope)).whole:
        return known.module, Rule.REPEATED if known.again else Rule.NAME
    if (module := _dynamo_module(node.metadata, tree)) is not None:
        return module, Rule.DYNAMO
    for value in node.outputs:
        scope = scope_of(value)
        if scope is not None and (known := resolver.resolve(scope)).whole:
            return known.module, Rule.VALUE
    return None


def _others(node: Node, resolver: ScopeResolver) -> frozenset[str]:
    """Return the modules that the scope in a node's name could as well mean."""
    scope = scope_of(node.name)
    return resolver.resolve(scope).others if scope is not None else frozenset()


def dynamo_scopes(metadata: Mapping[str, str]) -> list[str] | None:
    """Return the modules around a node, outermost first, as the dynamo exporter wrote them; None where it did not.

    It writes a Python list whose last entry names the operation, and may look like a module.
    """
    scopes = _listed(metadata.get(DYNAMO_SCOPES))
    return None if scopes is None else [scope for scope in scopes[:-1] if is_within_bounds(scope)]


def dynamo_tree(graph: Graph) -> ModuleTree | None:
    """Return the tree that the dynamo exporter's notes make up, classes included; None where there are none.

    For files whose model is not known. Modules that only hold others are not in it.
    """
    classes: dict[str, str] = {}
    for node in graph.nodes:
        scopes = _listed(node.metadata.get(DYNAMO_SCOPES)) or []
        kinds = _listed(node.metadata.get(_DYNAMO_CLASSES)) or [""] * len(scopes)
        for scope, kind in zip(scopes[:-1], kinds[:-1], strict=False):
            if is_within_bounds(scope):
                classes.setdefault(scope, kind.rpartition(".")[2][:_LONGEST_CLASS])
    if not classes.keys() - {ROOT}:
        return None
    return ModuleTree.of_names(classes)


def _listed(text: str | None) -> list[str] | None:
    """Return a list of strings that is written as in Python, None for anything else."""
    if text is None or len(text) > _LONGEST:
        return None
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return found if isinstance(found, list) and all(isinstance(entry, str) for entry in found) else None


def _dynamo_module(metadata: Mapping[str, str], tree: ModuleTree) -> str | None:
    """Return the innermost module that the dynamo exporter wrote; None where it is not in the tree."""
    scopes = dynamo_scopes(metadata)
    if scopes is None:
        return None
    named = [scope for scope in scopes if scope]
    for scope in reversed(named):
        if scope in tree.names:
            return tree.names[scope]
    return None if named else tree.names.get(ROOT, ROOT)


def _follow_data(nodes: Sequence[Node], tree: ModuleTree, found: Found) -> None:
    """Find nodes by their neighbours: those that use their values, then those that make what they use.

    A node with subgraphs belongs to the common module of the nodes inside.
    """
    users: dict[str, list[int]] = defaultdict(list)
    makers: dict[str, list[int]] = defaultdict(list)
    for index, node in enumerate(nodes):
        for value in filter(None, node.inputs):
            users[value].append(index)
        for value in filter(None, node.outputs):
            if len(makers[value]) < _MAKERS:
                makers[value].append(index)
    inside = _nodes_inside(nodes)

    def modules(indexes: Iterable[int]) -> list[str] | None:
        """Return the modules of all of these; None while one is not known, or where there are none."""
        known = [found[index][0] for index in indexes if index in found]
        return known if known else None

    def used_by(index: int) -> Iterable[int]:
        made = [value for value in dict.fromkeys(nodes[index].outputs) if index in makers.get(value, ())]
        return (user for value in made for user in users.get(value, ()) if user != index)

    def made_by(index: int) -> Iterable[int]:
        return (maker for value in nodes[index].inputs for maker in makers.get(value, ()) if maker != index)

    neighbours: tuple[Callable[[int], Iterable[int]], ...] = (lambda index: inside.get(index, ()), used_by, made_by)
    open_ones = [index for index in range(len(nodes)) if index not in found]
    for look in neighbours:
        order = open_ones if look is made_by else list(reversed(open_ones))  # graphs are sorted by data flow
        for _ in range(2):  # what lies in subgraphs may be out of order
            for index in order:
                if index not in found and (known := modules(look(index))) is not None:
                    found[index] = tree.common(known), Rule.DATA_FLOW
        open_ones = [index for index in open_ones if index not in found]


def _follow_order(nodes: Sequence[Node], tree: ModuleTree, found: Found) -> None:
    """Find nodes that nobody uses and that use nothing: exporters write nodes in the order of execution."""
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


def _nodes_inside(nodes: Sequence[Node]) -> dict[int, list[int]]:
    """Return the nodes in the subgraphs of each node that has some."""
    inside: dict[int, list[int]] = defaultdict(list)
    around: list[int] = []
    for index, node in enumerate(nodes):
        del around[len(node.within) :]
        for outer in around:
            inside[outer].append(index)
        around.append(index)
    return inside
