"""The calls of a module in a graph: which of its nodes belong to which call.

A model may call a module many times (ALBERT has one layer for all of its depth). PyTorch's exporter writes scopes into
the names of nodes and values, with the number of the innermost module's call from the second on
(`albert_layers.0/attention/query_1`). So a module's call is determined by the calls of its submodules: each call has
its share of them. Nodes without a scope belong to the nodes that use their values. If no node has a scope, the weights
decide: each call uses each of them once, in the same order.

The branches of a merged decoder contain a call each: one without past keys and values, and one with them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from optimum_htp.errors import ExtractError
from optimum_htp.hierarchy.scopes import ScopeResolver, is_called_inside, scope_of
from optimum_htp.hierarchy.tree import ROOT, ModuleTree, is_inside
from optimum_htp.modules.levels import Level

if TYPE_CHECKING:
    from onnx import NodeProto

__all__ = ["CallFinder", "ModuleCall"]

_NAMED: Final = 0  # Calls from the names of nodes: the most reliable.
_COUNTED: Final = 1  # Calls from the uses of weights.
_ALONE: Final = 2  # One call, because several cannot be distinguished.

Scope = tuple[str, ...]


@dataclass(frozen=True)
class ModuleCall:
    """A call of a module: the indices of its nodes in one graph of the model."""

    level: Level
    nodes: frozenset[int]


class CallFinder:
    """Finds the calls of modules.

    Args:
        levels: The graphs of the model, each after the one around it.
        tree: The modules, as in the part that the graph contains.
    """

    def __init__(self, levels: Sequence[Level], tree: ModuleTree) -> None:
        self._levels = levels
        self._tree = tree
        self._resolver = ScopeResolver(tree)

    def calls(self, module: str) -> list[ModuleCall]:
        """Return the calls of a module, by its name in the whole model, in the order of the file.

        Raises:
            ExtractError: There are several, and they cannot be distinguished.
        """
        taken: set[tuple[tuple[int, ...], ...]] = set()  # Nodes that belong to the call together with their subgraphs.
        found: dict[int, list[ModuleCall]] = defaultdict(list)
        for level in self._levels:
            around = ((*level.place[:depth], level.place[depth][:1]) for depth in range(len(level.place)))
            if any(node in taken for node in around):
                continue
            inside = _nodes_of(level, module)
            taken |= {(*level.place, (index,)) for index in inside}
            inside = self._of_calls(level, inside, module)
            if not inside:
                continue
            sureness, numbers = _ALONE, dict.fromkeys(inside, 0)
            if named := self._by_name(level, inside, module):
                sureness, numbers = _NAMED, named
            elif counted := _by_weights(level, inside, module):
                sureness, numbers = _COUNTED, counted
            found[sureness] += [ModuleCall(level, nodes) for nodes in _split(level, inside, numbers)]
        # Constants that belong to a module through their users may be in other graphs, and are not a call of it.
        return found[min(found)] if found else []

    def user(self, module: str, call: ModuleCall) -> str | None:
        """Return the module that uses the weights of another module directly, so that this looks like a call of it.

        None if the module was called, or if the user is unknown.
        """
        known: set[str] = set()
        for index in call.nodes:
            scope = scope_of(call.level.nodes[index].name)
            if scope is not None and (resolved := self._resolver.resolve(scope)).whole:
                if any(is_inside(one, module) for one in resolved.others):
                    return None
                known.add(resolved.module)
        return known.pop() if len(known) == 1 else None

    def _of_calls(self, level: Level, inside: list[int], module: str) -> list[int]:
        """Return the nodes without those of submodules that are called from outside the module, if this is known."""
        known: dict[int, set[bool | None]] = {
            index: {
                is_called_inside(self._resolver, self._tree, scope, module) for scope in _scopes(level.nodes[index])
            }
            for index in inside
        }
        if not any(True in answers for answers in known.values()):
            return inside
        return [index for index in inside if True in known[index] or False not in known[index]]

    def _by_name(self, level: Level, inside: Sequence[int], module: str) -> dict[int, int]:
        """Return the number of the call of each node, for nodes whose names contain it."""
        callee = self._tree.caller(module)
        if callee != module:  # A list of modules is used in the call of the module around it.
            numbers = self._by_name(level, _nodes_of(level, callee), callee)
            return {index: numbers[index] for index in inside if index in numbers}
        sites: dict[Scope, dict[int, tuple[Scope, int]]] = defaultdict(dict)
        for index in inside:
            for scope in _scopes(level.nodes[index]):
                if (length := self._reach(scope, callee)) is not None:
                    bare, number = self._numbered(scope)
                    sites[bare[:length]][index] = bare, number
                    break
        found: dict[int, tuple[Scope, int]] = {}
        for site, members in sites.items():
            found.update({index: (site, number) for index, number in _of_calls(site, members).items()})
        order = {call: number for number, call in enumerate(dict.fromkeys(found[index] for index in sorted(found)))}
        return {index: order[call] for index, call in found.items()}

    def _reach(self, scope: Scope, callee: str) -> int | None:
        """Return the number of components of a scope that lead to a module; None if it does not."""
        for length in range(len(scope) + 1):
            resolved = self._resolver.resolve(scope[:length])
            # The node's tag selects one of several modules.
            if resolved.whole and callee in map(self._tree.caller, resolved.others):
                return length
        return None

    def _numbered(self, scope: Scope) -> tuple[Scope, int]:
        """Return a scope without the number after its last component, and the number."""
        bare, _, number = scope[-1].rpartition("_") if scope else ("", "", "")
        if bare and number.isdigit() and self._resolver.resolve(scope).again:
            return (*scope[:-1], bare), int(number)
        return scope, 0


def _of_calls(site: Scope, members: Mapping[int, tuple[Scope, int]]) -> dict[int, int]:
    """Return the calls of nodes at one place of a model, from the calls of the nodes' own modules.

    Args:
        site: The scope of the calls.
        members: For each node the scope of its own module, and the number of that module's call.
    """
    counts: dict[Scope, int] = {}
    for scope, number in members.values():
        counts[scope] = max(counts.get(scope, 0), number + 1)
    total = counts.get(site) or math.gcd(*counts.values())
    return {
        index: number * total // counts[scope]
        for index, (scope, number) in members.items()
        if counts[scope] % total == 0
    }


def _scopes(node: NodeProto) -> Iterator[Scope]:
    return (scope for name in (node.name, *node.output) if (scope := scope_of(name)) is not None)


def _nodes_of(level: Level, module: str) -> list[int]:
    return [index for index, own in enumerate(level.modules) if is_inside(own, module)]


def _by_weights(level: Level, inside: Sequence[int], module: str) -> dict[int, int]:
    """Return the calls of nodes without scopes, if all weights are used equally often; empty for one call.

    Raises:
        ExtractError: There are several, and they cannot be distinguished.
    """
    users: dict[str, list[int]] = defaultdict(list)
    for index in inside:
        for value in level.uses[index]:
            if value in level.initializers:
                users[value].append(index)
    counts = {len(using) for using in users.values()}
    if module == ROOT or len(counts) != 1 or (total := counts.pop()) == 1:
        return {}
    kinds = [(level.modules[index], level.nodes[index].op_type) for index in inside]
    length = len(inside) // total
    if all(own != module for own, _ in kinds) or kinds != kinds[:length] * total:
        raise ExtractError(
            f"The weights in {module} are used {total} times, and the file does not contain which node belongs to "
            "which call, or whether these are calls of this module. Only PyTorch's TorchScript exporter writes that "
            "into names. Extract the module around it, or one in it."
        )
    return {index: position // length for position, index in enumerate(inside)}


def _split(level: Level, inside: Sequence[int], numbers: dict[int, int]) -> list[frozenset[int]]:
    """Return the nodes of each call, if the calls of some are known.

    Other nodes belong to the first call that uses their values, otherwise to the call of the nodes before them.
    """
    numbers = dict(numbers)
    chosen = set(inside)
    users: dict[int, list[int]] = defaultdict(list)
    makers: dict[int, list[int]] = defaultdict(list)
    for index in inside:
        for value in level.uses[index]:
            maker = level.makers.get(value)
            if maker is not None and maker in chosen:
                users[maker].append(index)
                makers[index].append(maker)
    for index in reversed(inside):
        if index not in numbers and (known := [numbers[user] for user in users[index] if user in numbers]):
            numbers[index] = min(known)
    for index in inside:
        if index not in numbers:
            numbers[index] = max((numbers[maker] for maker in makers[index] if maker in numbers), default=0)
    calls: dict[int, set[int]] = defaultdict(set)
    for index in inside:
        calls[numbers[index]].add(index)
    return [frozenset(calls[number]) for number in sorted(calls)]
