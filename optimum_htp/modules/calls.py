"""The calls of a module in a graph: which of its nodes belong to which.

A model may call a module many times (ALBERT has one layer for all of its depth). PyTorch's exporter writes the scope
of each call into the names of nodes and values, from the second on with a number (`albert_layers.0_1`), and that tells
them apart. Nodes without a scope go with the nodes that use their values. Where no node has a scope, the weights tell:
each call uses each of them once, in the same order.

The branches of a merged decoder hold a call each: the first without past keys and values, the second with them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from optimum_htp.hierarchy.scopes import ScopeResolver, scope_of
from optimum_htp.hierarchy.tree import ROOT, ModuleTree, ancestors
from optimum_htp.modules.levels import Level, module_of

if TYPE_CHECKING:
    from onnx import NodeProto

__all__ = ["ModuleCall", "calls_of"]


@dataclass(frozen=True)
class ModuleCall:
    """A call of a module: the numbers of its nodes in one graph of the model."""

    level: Level
    nodes: frozenset[int]


def calls_of(module: str, levels: Sequence[Level], tree: ModuleTree) -> list[ModuleCall]:
    """Return the calls of a module, in the order of the file.

    Args:
        module: Its name in the whole model.
        levels: The graphs of the model, each behind the one around it.
        tree: The modules, as the part sees them that the graph is.
    """
    resolver = ScopeResolver(tree)
    callee = tree.caller(module)  # a list of modules is used in the call of the module that holds it
    taken: set[tuple[tuple[int, ...], ...]] = set()  # nodes that are taken with all that is in them
    calls: list[ModuleCall] = []
    for level in levels:
        if any(level.place[:depth] and _is_in(level, depth, taken) for depth in range(1, len(level.place) + 1)):
            continue
        inside = [index for index, node in enumerate(level.nodes) if _is_of(node, module)]
        taken |= {(*level.place, (index,)) for index in inside}
        calls += [ModuleCall(level, frozenset(call)) for call in _split(level, inside, callee, resolver, tree)]
    return calls


def _is_in(level: Level, depth: int, taken: Collection[tuple[tuple[int, ...], ...]]) -> bool:
    return (*level.place[: depth - 1], level.place[depth - 1][:1]) in taken


def _is_of(node: NodeProto, module: str) -> bool:
    own = module_of(node)
    return own == module or module in (ROOT, *ancestors(own))


def _split(
    level: Level, inside: Sequence[int], callee: str, resolver: ScopeResolver, tree: ModuleTree
) -> list[set[int]]:
    """Return the nodes of each call of a module, of all that it has in a graph."""
    if not inside:
        return []
    keys = {index: key for index in inside if (key := _key(level.nodes[index], callee, resolver, tree)) is not None}
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys.values()))}
    found = {index: numbers[key] for index, key in keys.items()} or _by_weights(level, inside)
    if not found:
        return [set(inside)]
    _spread(level, inside, found)
    calls: list[set[int]] = [set() for _ in range(max(found.values()) + 1)]
    for index in inside:
        calls[found[index]].add(index)
    return [call for call in calls if call]


def _key(node: NodeProto, callee: str, resolver: ScopeResolver, tree: ModuleTree) -> tuple[str, ...] | None:
    """Return the scope of the call that a node is in: how its own begins, as far as the module."""
    for scope in (scope_of(name) for name in (node.name, *node.output)):
        for length in range(len(scope) + 1) if scope is not None else ():
            resolved = resolver.resolve(scope[:length])
            if resolved.whole and tree.caller(resolved.module) == callee:
                return scope[:length]
    return None


def _by_weights(level: Level, inside: Sequence[int]) -> dict[int, int]:
    """Return the calls of the nodes that use weights, where all weights are used equally often; else nothing."""
    users: dict[str, list[int]] = defaultdict(list)
    for index in inside:
        for value in level.uses[index]:
            if value in level.initializers:
                users[value].append(index)
    counts = {len(using) for using in users.values()}
    if len(counts) != 1:
        return {}
    return {index: number for using in users.values() for number, index in enumerate(using)}


def _spread(level: Level, inside: Sequence[int], found: dict[int, int]) -> None:
    """Give the other nodes the call of those that use their values, the first of these; else of those before them."""
    users: dict[int, list[int]] = defaultdict(list)
    chosen = set(inside)
    for index in inside:
        for value in level.uses[index]:
            maker = level.makers.get(value)
            if maker in chosen and maker is not None:
                users[maker].append(index)

    def makers(index: int) -> Iterator[int]:
        return (maker for value in level.uses[index] if (maker := level.makers.get(value)) is not None)

    for index in reversed(inside):
        if index not in found and (known := [found[user] for user in users[index] if user in found]):
            found[index] = min(known)
    for index in inside:
        if index not in found:
            known = [found[maker] for maker in makers(index) if maker in found]
            found[index] = max(known, default=0)
