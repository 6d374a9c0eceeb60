"""Every node to its module, by rules in a fixed order; each rule's share is counted and told.

A rule that reads what the exporter wrote comes before one that concludes; the root is the last resort.
"""

from __future__ import annotations

import ast
import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from optimum_htp.hierarchy.neighbours import follow_neighbours
from optimum_htp.hierarchy.rules import INFERRED, LAST_RESORTS, Found, Rule, is_within_bounds
from optimum_htp.hierarchy.scopes import ScopeResolver, scope_of
from optimum_htp.hierarchy.tree import ROOT, ModuleTree, ancestors, is_inside, loose_shape
from optimum_htp.onnxfile import Graph, Node

__all__ = ["DYNAMO_SCOPES", "Assignment", "assign", "complete", "dynamo_scopes", "dynamo_tree", "keep_exact"]

DYNAMO_SCOPES: Final = "pkg.torch.onnx.name_scopes"
_DYNAMO_CLASSES: Final = "pkg.torch.onnx.class_hierarchy"
_NO_MODULE: Final = "_empty_nn_module_stack_from_metadata_hook"  # PyTorch's name for a module that it does not know
_LONGEST: Final = 1 << 14  # characters of these
_LONGEST_CLASS: Final = 256


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

    @property
    def inexact(self) -> int:
        """How many nodes may have a module around the one that they came from."""
        return sum(rule in LAST_RESORTS for rule in self.rules)


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
        elif said is not None and said[1] is Rule.VALUE and _is_fused(node):
            around = weights.around(owner, said[0], node)
            found[index] = (around, Rule.FUSED) if around != said[0] else said
    follow_neighbours(graph, tree, found)
    root = tree.names.get(ROOT, ROOT)
    for index, node in enumerate(graph.nodes):
        module, rule = found.get(index, (root, Rule.ROOT))
        if rule in INFERRED and (scope := scope_of(node.name)):
            led = resolver.resolve(scope).module
            if led != root and not is_inside(module, led):
                module, rule = led, Rule.PARTIAL
        found[index] = module, rule
    pairs = [found[index] for index in range(len(graph.nodes))]
    return Assignment(tree, tuple(tree.caller(module) for module, _ in pairs), tuple(rule for _, rule in pairs))


def keep_exact(assignment: Assignment, before: Assignment) -> Assignment:
    """Return an assignment with the tags that nodes had before, where new ones are inferred and no more exact.

    Args:
        assignment: The new modules.
        before: Those that the nodes of the same graph had.
    """
    tree = assignment.tree
    known = tree.classes.keys() or set(tree.names.values())
    pairs = [
        (had, Rule.KEPT) if rule in INFERRED and had in known and not is_inside(module, had) else (module, rule)
        for module, rule, had in zip(assignment.modules, assignment.rules, before.modules, strict=True)
    ]
    return Assignment(tree, tuple(module for module, _ in pairs), tuple(rule for _, rule in pairs))


class _Weights:
    """The parameters that a graph's nodes use, and the modules that own them."""

    def __init__(self, graph: Graph, tree: ModuleTree, by_value: Mapping[str, frozenset[str]]) -> None:
        self._shapes = {
            tensor.name: loose_shape(tensor.shape)
            for tensor in graph.tensors
            if "float" in tensor.dtype and loose_shape(tensor.shape)
        }
        self._named = {name: owners for name in self._shapes if (owners := tree.owners(name))}
        self._by_value = by_value
        self._tree = tree
        self._inside = functools.cache(self._inside_of)

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

    def around(self, owner: str | None, module: str, node: Node) -> str:
        """Return the module around the one that a fused node's result is of and the owner of its parameters.

        Where that is not known, the innermost one that has parameters of such shapes.

        Args:
            owner: Of the parameters; None where it is not known.
            module: That computed the result.
            node: It has replaced nodes of both.
        """
        if owner is not None:
            return self._tree.common((owner, module))
        shapes = {self._shapes[name] for name in node.inputs if name in self._shapes} & self._inside(ROOT)
        wide = (one for one in (module, *ancestors(module)) if shapes <= self._inside(one))
        return self._tree.caller(next(wide, module))

    def _inside_of(self, module: str) -> frozenset[tuple[int, ...]]:
        """Return the shapes of the parameters in a module, those of the modules in it too."""
        owned = (shapes for name, shapes in self._tree.shapes.items() if is_inside(name, module))
        return frozenset().union(*owned)

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
        rule = Rule.REPEATED if known.again else Rule.NAME
        return known.module, rule if known.certain else Rule.PARTIAL
    if (module := _dynamo_module(node.metadata, tree)) is not None:
        return module, Rule.DYNAMO
    for value in node.outputs:
        scope = scope_of(value)
        if scope is not None and (known := resolver.resolve(scope)).whole:
            return known.module, Rule.VALUE if known.certain else Rule.PARTIAL
    return None


def _is_fused(node: Node) -> bool:
    """Whether a node has another operator than the one that its results are named after."""
    return not any(value.rpartition("/")[2].startswith(f"{node.op_type}_") for value in node.outputs)


def _others(node: Node, resolver: ScopeResolver) -> frozenset[str]:
    """Return the modules that the scope in a node's name could as well mean."""
    scope = scope_of(node.name)
    return resolver.resolve(scope).others if scope is not None else frozenset()


def dynamo_scopes(metadata: Mapping[str, str]) -> list[str] | None:
    """Return the modules around a node, outermost first, as the dynamo exporter wrote them.

    None where it wrote none, or did not know them. It writes a Python list whose last entry names the operation, and
    may look like a module.
    """
    scopes = _listed(metadata.get(DYNAMO_SCOPES))
    return (
        None if scopes is None or _NO_MODULE in scopes else [scope for scope in scopes[:-1] if is_within_bounds(scope)]
    )


def dynamo_tree(graph: Graph) -> ModuleTree | None:
    """Return the tree that the dynamo exporter's notes make up, classes included; None where there are none.

    For files whose model is not known. Modules that only hold others are not in it.
    """
    classes: dict[str, str] = {}
    for node in graph.nodes:
        scopes = _listed(node.metadata.get(DYNAMO_SCOPES)) or []
        kinds = _listed(node.metadata.get(_DYNAMO_CLASSES)) or [""] * len(scopes)
        for scope, kind in zip(scopes[:-1], kinds[:-1], strict=False):
            if is_within_bounds(scope) and scope != _NO_MODULE:
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
