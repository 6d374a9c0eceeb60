"""Finds the part of a model that a graph contains, from the scopes and parameters in its names.

The names in a separately exported encoder begin at the encoder. So do the scopes of a model that calls
`self.model.decoder` without `self.model`; the names of its parameters do not.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from optimum_htp.hierarchy.assign import dynamo_scopes
from optimum_htp.hierarchy.scopes import ScopeResolver, scope_of
from optimum_htp.hierarchy.tree import ModuleTree
from optimum_htp.onnxfile import Graph

__all__ = ["COMPONENTS", "part_fit", "part_tree", "scopes_of"]

COMPONENTS: Final = {"vae_encoder": "vae", "vae_decoder": "vae"}
"""The parts of a diffusion pipeline that Optimum makes from one component."""

_ENOUGH: Final = 0.95  # Share of the names; functions and renamed nodes have names without a module.
_DEEPEST: Final = 3  # Levels at which parts are searched for.
_MOST: Final = 200  # Modules that are tried, the outer ones first.


def scopes_of(graph: Graph) -> set[tuple[str, ...]]:
    """Return the scopes in the names of a graph's nodes and values."""
    names = (name for node in graph.nodes for name in (node.name, *node.outputs))
    return {scope for name in names if (scope := scope_of(name)) is not None}


def part_fit(graph: Graph, tree: ModuleTree) -> float:
    """Return the share of the scopes in a graph's names that resolve to a module, from 0 to 1."""
    scopes = scopes_of(graph) - {()}
    resolver = ScopeResolver(part_tree(graph, tree))
    return sum(resolver.resolve(scope).whole for scope in scopes) / max(len(scopes), 1)


def part_tree(graph: Graph, tree: ModuleTree) -> ModuleTree:
    """Return the tree of the part of a model that a graph contains; the whole tree if it fits, or if no part fits."""
    scopes = scopes_of(graph) - {()}
    written = {scope for node in graph.nodes for scope in dynamo_scopes(node.metadata) or () if scope}
    if not scopes and not written:
        return tree
    parameters = _parameters(graph, tree)

    def fit(candidate: ModuleTree) -> float:
        resolver = ScopeResolver(candidate)
        fitting = sum(map(resolver.fits, scopes)) + len(written & candidate.names.keys())
        fitting += sum(bool(candidate.owners(name)) for name in parameters)
        return fitting / (len(scopes) + len(written) + len(parameters))

    best, score = tree, fit(tree)
    if score >= _ENOUGH:
        return best
    first = {scope[0].partition(".")[0].rstrip("_0123456789") for scope in scopes}
    first |= {scope.partition(".")[0].rstrip("_0123456789") for scope in written}
    held = _children(tree)
    roots = [name for name in sorted(tree.classes, key=lambda name: name.count(".")) if first & held.get(name, set())]
    for root in roots[:_MOST]:
        candidate = tree.below(root)
        if (found := fit(candidate)) > score:
            best, score = candidate, found
    return best


def _parameters(graph: Graph, tree: ModuleTree) -> list[str]:
    """Return the names of a graph's tensors that are names of parameters in the model, or in a part of it."""
    endings: set[str] = set()
    for name in tree.parameters:
        atoms = name.split(".")
        endings.update(".".join(atoms[start:]) for start in range(len(atoms) - 1))
    return [tensor.name for tensor in graph.tensors if tensor.name in endings]


def _children(tree: ModuleTree) -> dict[str, set[str]]:
    """Return the names, without numbers, of the submodules of each module that may be the root of a part."""
    held: dict[str, set[str]] = defaultdict(set)
    for name in tree.classes:
        atoms = name.split(".", _DEEPEST + 1)
        for level in range(1, min(len(atoms), _DEEPEST + 1)):
            held[".".join(atoms[:level])].add(atoms[level].rstrip("_0123456789"))
    return held
