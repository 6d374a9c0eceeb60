"""Assigns every node to its module, with rules in a fixed order. The number of nodes of each rule is recorded.

Rules that read the exporter's output come before rules that infer. The root is the last resort.
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
_NO_MODULE: Final = "_empty_nn_module_stack_from_metadata_hook"  # PyTorch's name for an unknown module.
_LONGEST: Final = 1 << 14  # Characters of the metadata.
_LONGEST_CLASS: Final = 256


@dataclass(frozen=True)
class Assignment:
    """The module of each node of a graph, in the order of the file, and the rule that found it."""

    tree: ModuleTree
    modules: tuple[str, ...]
    rules: tuple[Rule, ...]

    @property
    def coverage(self) -> dict[str, int]:
        """Number of nodes of each rule."""
        counted = Counter(rule.value for rule in self.rules)
        return {rule.value: counted[rule.value] for rule in Rule if counted[rule.value]}

    @property
    def inexact(self) -> int:
        """Number of nodes whose module may be an outer module of the exact one."""
        return sum(rule in LAST_RESORTS for rule in self.rules)


def assign(
    graph: Graph, resolver: ScopeResolver, tree: ModuleTree, owners: Mapping[str, frozenset[str]] | None = None
) -> Assignment:
    """Return the modules of a graph's nodes, from the graph itself.

    `owners` has the modules that own initializers, for initializers whose names do not contain it.
    """
    return complete(graph, resolver, tree, {}, owners)


def complete(
    graph: Graph,
    resolver: ScopeResolver,
    tree: ModuleTree,
    found: Found,
    owners: Mapping[str, frozenset[str]] | None = None,
) -> Assignment:
    """Return the modules of a graph's nodes if some are already known.

    `found` has the known modules, by index of the node; `owners` is that of `assign`.
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
    """Return an assignment in which existing tags replace new ones that are inferred and not more exact."""
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
        """Return the single module that owns the parameters of a node.

        Names decide. Values decide only if the owners of all are known: for a convolution with a folded batch norm,
        the bias may be the norm's, but the node is still the convolution.
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
        """Return the common module of a fused node's result and of its parameters.

        If the owner is unknown, it is the innermost module that has parameters of these shapes.

        The owner is None if it is unknown. The module computed the result. The node has replaced nodes of both.
        """
        if owner is not None:
            return self._tree.common((owner, module))
        shapes = {self._shapes[name] for name in node.inputs if name in self._shapes} & self._inside(ROOT)
        wide = (one for one in (module, *ancestors(module)) if shapes <= self._inside(one))
        return self._tree.caller(next(wide, module))

    def _inside_of(self, module: str) -> frozenset[tuple[int, ...]]:
        """Return the shapes of the parameters in a module, including those of its submodules."""
        owned = (shapes for name, shapes in self._tree.shapes.items() if is_inside(name, module))
        return frozenset().union(*owned)

    def goes_before(self, owner: str, module: str, node: Node) -> bool:
        """Whether the owner of its parameters is more exact for a node than its scope.

        This is true if the scope's module has no parameter of this shape: exporters merge parameters of equal values,
        and a module that uses another's tied weight keeps its scope. If shapes are unknown, it is true if one module
        is inside the other.
        """
        if owner == module:
            return False
        if self._tree.shapes:
            own = self._tree.shapes.get(module, frozenset())
            return not any(self._shapes[name] in own for name in node.inputs if name in self._shapes)
        return is_inside(owner, module) or is_inside(module, owner)


def _said(node: Node, resolver: ScopeResolver, tree: ModuleTree) -> tuple[str, Rule] | None:
    """Return the module from the node itself: its name, the dynamo exporter's metadata, the names of its values."""
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
    """Whether a node has another operator than the one in the names of its results."""
    return not any(value.rpartition("/")[2].startswith(f"{node.op_type}_") for value in node.outputs)


def _others(node: Node, resolver: ScopeResolver) -> frozenset[str]:
    """Return the other modules that the scope in a node's name can mean."""
    scope = scope_of(node.name)
    return resolver.resolve(scope).others if scope is not None else frozenset()


def dynamo_scopes(metadata: Mapping[str, str]) -> list[str] | None:
    """Return the modules around a node from the dynamo exporter's metadata, outermost first.

    None if there are none, or if they are unknown. The metadata is a Python list. Its last entry names the operation,
    and may look like a module.
    """
    scopes = _listed(metadata.get(DYNAMO_SCOPES))
    return (
        None if scopes is None or _NO_MODULE in scopes else [scope for scope in scopes[:-1] if is_within_bounds(scope)]
    )


def dynamo_tree(graph: Graph) -> ModuleTree | None:
    """Return the tree from the dynamo exporter's metadata, including classes; None if there is no metadata.

    For files of unknown models. Modules that only contain others are not in it.
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
    """Return a list of strings from its Python notation; None for anything else."""
    if text is None or len(text) > _LONGEST:
        return None
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return found if isinstance(found, list) and all(isinstance(entry, str) for entry in found) else None


def _dynamo_module(metadata: Mapping[str, str], tree: ModuleTree) -> str | None:
    """Return the innermost module in the dynamo exporter's metadata; None if it is not in the tree."""
    scopes = dynamo_scopes(metadata)
    if scopes is None:
        return None
    named = [scope for scope in scopes if scope]
    for scope in reversed(named):
        if scope in tree.names:
            return tree.names[scope]
    return None if named else tree.names.get(ROOT, ROOT)
