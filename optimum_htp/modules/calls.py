"""The calls of a module in a graph: which of its nodes belong to which.

A model may call a module many times (ALBERT has one layer for all of its depth). PyTorch's exporter writes scopes into
the names of nodes and values, with the number of the innermost module's call from the second on
(`albert_layers.0/attention/query_1`); so a module's call is told by the calls of the modules in it, of which each has
its share. Nodes without a scope go with the nodes that use their values. Where no node has a scope, the weights tell:
each call uses each of them once, in the same order.

The branches of a merged decoder hold a call each: the one without past keys and values, and the one with them.
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
from optimum_htp.modules.levels import Level, module_of

if TYPE_CHECKING:
    from onnx import NodeProto

__all__ = ["CallFinder", "ModuleCall"]

_NAMED: Final = 0  # calls that the names of nodes tell: the surest
_COUNTED: Final = 1  # those that the uses of weights tell
_ALONE: Final = 2  # one, because nothing tells several apart

Scope = tuple[str, ...]


@dataclass(frozen=True)
class ModuleCall:
    """A call of a module: the numbers of its nodes in one graph of the model."""

    level: Level
    nodes: frozenset[int]


class CallFinder:
    """Finds the calls of modules.

    Args:
        levels: The graphs of the model, each behind the one around it.
        tree: The modules, as the part sees them that the graph is.
    """

    def __init__(self, levels: Sequence[Level], tree: ModuleTree) -> None:
        self._levels = levels
        self._tree = tree
        self._resolver = ScopeResolver(tree)

    def calls(self, module: str) -> list[ModuleCall]:
        """Return the calls of a module, by its name in the whole model, in the order of the file.

        Raises:
            ExtractError: There are several, and nothing tells them apart.
        """
        taken: set[tuple[tuple[int, ...], ...]] = set()  # nodes that are taken with all that is in them
        found: dict[int, list[ModuleCall]] = defaultdict(list)
        for level in self._levels:
            around = ((*level.place[:depth], level.place[depth][:1]) for depth in range(len(level.place)))
            if any(node in taken for node in around):
                continue
            inside = [index for index, node in enumerate(level.nodes) if _is_of(node, module)]
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
        # Constants that went to a module for those that use them lie in other graphs too, and are no call of it.
        return found[min(found)] if found else []

    def user(self, module: str, call: ModuleCall) -> str | None:
        """Return the module that has done itself, with the weights of another, what seems to be a call of that.

        None where the module was called, or nobody says who did it.
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
        """Return the nodes without those of modules in one that are called from outside it, where some say so."""
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
        """Return the number of the call that each node is in, of those whose names tell."""
        callee = self._tree.caller(module)
        if callee != module:  # a list of modules is used in the call of the module that holds it
            around = [index for index, node in enumerate(level.nodes) if _is_of(node, callee)]
            numbers = self._by_name(level, around, callee)
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
        """Return how much of a scope leads to a module; None where it does not."""
        for length in range(len(scope) + 1):
            resolved = self._resolver.resolve(scope[:length])
            # Which of several modules it is, the node's tag says.
            if resolved.whole and callee in map(self._tree.caller, resolved.others):
                return length
        return None

    def _numbered(self, scope: Scope) -> tuple[Scope, int]:
        """Return a scope without the number behind its last piece, and that."""
        bare, _, number = scope[-1].rpartition("_") if scope else ("", "", "")
        if bare and number.isdigit() and self._resolver.resolve(scope).again:
            return (*scope[:-1], bare), int(number)
        return scope, 0


def _of_calls(site: Scope, members: Mapping[int, tuple[Scope, int]]) -> dict[int, int]:
    """Return the calls, at one place of a model, that nodes are in, from the calls of the modules that they are of.

    Args:
        site: The scope of the calls.
        members: For each node the scope of its own module, and the number of that one's call.
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


def _is_of(node: NodeProto, module: str) -> bool:
    return is_inside(module_of(node), module)


def _by_weights(level: Level, inside: Sequence[int], module: str) -> dict[int, int]:
    """Return the calls of nodes without scopes, where each weight is used equally often; nothing for one call.

    Raises:
        ExtractError: There are several, and they cannot be told apart.
    """
    users: dict[str, list[int]] = defaultdict(list)
    for index in inside:
        for value in level.uses[index]:
            if value in level.initializers:
                users[value].append(index)
    counts = {len(using) for using in users.values()}
    if module == ROOT or len(counts) != 1 or (total := counts.pop()) == 1:
        return {}
    kinds = [(module_of(level.nodes[index]), level.nodes[index].op_type) for index in inside]
    length = len(inside) // total
    if all(own != module for own, _ in kinds) or kinds != kinds[:length] * total:
        raise ExtractError(
            f"What is in {module} is called {total} times, and nothing in the file tells whether these are calls of "
            "its own, and which node is in which: PyTorch's TorchScript exporter writes that into names. Cut out the "
            "module around it, or one in it."
        )
    return {index: position // length for position, index in enumerate(inside)}


def _split(level: Level, inside: Sequence[int], numbers: dict[int, int]) -> list[frozenset[int]]:
    """Return the nodes of each call, where those of some are known.

    Another node is in the call of those that use its values, the first of these; else in that of those before it.
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
