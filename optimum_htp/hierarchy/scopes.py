"""Scopes in names: from `/encoder/layer.0/attention/self/query/MatMul` to `encoder.layer.0.attention.self.query`.

PyTorch's TorchScript exporter names nodes and values by the called modules, outermost first. For each module it
writes the last attribute with the indices after it (`layer.0`, `weight.0`), and a suffix from the second call on
(`attention_1`). So a scope is resolved by walking down the tree of modules, one call per component.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from optimum_htp.hierarchy.rules import is_within_bounds
from optimum_htp.hierarchy.tree import ROOT, ModuleTree, ancestors, is_inside, parent_of

__all__ = ["Resolved", "ScopeResolver", "is_called_inside", "scope_of", "short_name"]

_SECOND_CALL: Final = re.compile(r"_\d+$")
_FUSED: Final = "fused "
"""ONNX Runtime's optimizer writes this before the name of a layer into which it fuses the following activation."""


@dataclass(frozen=True)
class Resolved:
    """The result of resolving a scope.

    Attributes:
        module: Name in the whole model. If it is not certain, the common outer module of all candidates.
        again: Whether the path contains a second call of a module.
        whole: Whether every component of the scope is a module.
        others: All candidates: the modules with the same attribute name that are called alike.
        certain: Whether `module` is the only candidate.
    """

    module: str
    again: bool = False
    whole: bool = True
    others: frozenset[str] = frozenset()
    certain: bool = True


def is_called_inside(resolver: ScopeResolver, tree: ModuleTree, scope: tuple[str, ...], module: str) -> bool | None:
    """Whether a scope leads through a call of a module; None if it does not lead into that module.

    A model may call a submodule without calling the module: OWL-ViT applies a layer norm of its vision tower to the
    result of the tower.
    """
    callee = tree.caller(module)
    for length in range(len(scope) + 1):
        resolved = resolver.resolve(scope[:length])
        if resolved.whole and callee in map(tree.caller, resolved.others):  # The node's tag selects one of several.
            return True
    resolved = resolver.resolve(scope)
    return False if resolved.whole and any(is_inside(one, module) for one in resolved.others) else None


def scope_of(name: str) -> tuple[str, ...] | None:
    """Return the components of a node's or value's scope, without the operation; None if there is no scope."""
    name = name.removeprefix(_FUSED)
    if not name.startswith("/") or not is_within_bounds(name):
        return None
    return tuple(name.split("/")[1:-1])


@dataclass(frozen=True)
class _Homes:
    """The modules of one attribute name: for each module the nearest one inside it, and the first of its subtree."""

    nearest: dict[str, str] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)


class ScopeResolver:
    """Finds the modules that scopes name, in the tree of the exported part.

    `calls` has for each scope, without suffixes, the modules that were called in it during the trace, in order, by
    their names in the part. With this, nothing must be inferred.
    """

    def __init__(self, tree: ModuleTree, calls: Mapping[tuple[str, ...], Sequence[str]] | None = None) -> None:
        self._tree = tree
        self._calls = calls or {}
        self._named: dict[str, list[str]] = defaultdict(list)
        for name in tree.names:
            if name:
                self._named[short_name(name)].append(name)
        self.resolve = functools.cache(self._resolve)
        # The following tables are built per attribute name on first use, so that each step of a scope is one lookup.
        self._homes = functools.cache(self._homes_of)
        self._held = functools.cache(self._held_of)
        self._like = functools.cache(self._like_of)

    def fits(self, scope: tuple[str, ...]) -> bool:
        """Whether every component of a scope is a direct submodule of the one before it."""
        here = ROOT
        for piece in scope:
            inside = self._held(piece).get(here) or self._held(_SECOND_CALL.sub("", piece)).get(here)
            if inside is None:
                return False
            here = inside
        return True

    def _held_of(self, short: str) -> dict[str, str]:
        """Return the modules of an attribute name: the first one that each module contains."""
        held: dict[str, str] = {}
        for name in self._named.get(short, ()):
            held.setdefault(self._holder(name), name)
        return held

    def _holder(self, name: str) -> str:
        """Return the name, in the part, of the module around a module. Containers are skipped."""
        holder = parent_of(name)
        while holder and self._tree.names.get(holder, holder) in self._tree.containers:
            holder = parent_of(holder)
        return holder

    def _resolve(self, scope: tuple[str, ...]) -> Resolved:
        """Return the module that a scope leads to, as far as it resolves."""
        if (seen := self._seen(scope)) is not None:
            return seen
        heres = {ROOT: False}
        for piece in scope:
            led = dict(step for here, again in heres.items() for step in self._steps(here, piece, again))
            if not led:
                here, again = next(iter(heres.items()))
                return Resolved(self._tree.names.get(here, here), again, whole=False)
            heres = led
        here, again = next(iter(heres.items()))
        modules = frozenset(self._tree.names.get(one, one) for one in heres)
        skipped = any(atom.isdigit() for atom in here.split(".")) and not any("." in piece for piece in scope)
        if skipped:
            modules |= self._like(short_name(here))[_without_items(here)]
        return self._one_of(modules, again)

    def _one_of(self, modules: frozenset[str], again: bool) -> Resolved:
        return Resolved(self._tree.common(modules), again, others=modules, certain=len(modules) == 1)

    def _steps(self, here: str, piece: str, again: bool) -> Iterator[tuple[str, bool]]:
        """Yield the modules that a component of a scope may mean, and whether it counts a second call.

        `conv_1` is the module `conv_1`, or the second call of its sibling `conv`.
        """
        found = self._called(here, piece)
        if found is not None:
            yield found, again
        if (bare := _SECOND_CALL.sub("", piece)) != piece:
            repeated = self._called(here, bare)
            if repeated is not None and (found is None or parent_of(repeated) == parent_of(found)):
                yield repeated, True

    def _like_of(self, short: str) -> dict[str, frozenset[str]]:
        """Return the modules of an attribute name, grouped with those of the same name in the other items of a list.

        If the forward method of such a module was called directly, its scope lacks the item.
        """
        groups: dict[str, set[str]] = defaultdict(set)
        for name in self._named[short]:
            groups[_without_items(name)].add(self._tree.names.get(name, name))
        return {pattern: frozenset(group) for pattern, group in groups.items()}

    def _seen(self, scope: tuple[str, ...]) -> Resolved | None:
        """Return the module that was called in a scope. The suffix of the last component counts the calls."""
        bare, _, number = scope[-1].rpartition("_") if scope else ("", "", "")
        calls = self._calls.get((*scope[:-1], bare), ()) if number.isdigit() else ()
        repeated = self._call(calls, int(number)) if calls and int(number) < len(calls) else None
        first = self._call(self._calls[scope], 0) if scope in self._calls else None
        if first is None or repeated is None:
            return first or repeated
        return self._one_of(first.others | repeated.others, again=True)

    def _call(self, calls: Sequence[str], index: int) -> Resolved:
        """Return one of the modules that were called in a scope.

        The exporter counts only the calls that left nodes, so if different modules were called, the others stay
        candidates.
        """
        modules = [self._tree.names.get(name, name) for name in calls]
        return Resolved(modules[index], again=index > 0, others=frozenset(modules))

    def _called(self, caller: str, piece: str) -> str | None:
        """Return the module of that attribute name that a module called.

        It is the nearest descendant; otherwise, for a shared module that is registered elsewhere, the nearest one in
        the tree.
        """
        homes = self._homes(piece)
        if (nearest := homes.nearest.get(caller)) is not None:
            return nearest
        return next((homes.first[around] for around in (caller, *ancestors(caller)) if around in homes.first), None)

    def _homes_of(self, short: str) -> _Homes:
        homes = _Homes()
        for name in self._named.get(short, ()):
            homes.first.setdefault(name, name)
            for around in ancestors(name):
                homes.first.setdefault(around, name)
                if around not in homes.nearest or name.count(".") < homes.nearest[around].count("."):
                    homes.nearest[around] = name
        return homes


def _without_items(name: str) -> str:
    return ".".join(atom for atom in name.split(".") if not atom.isdigit())


def short_name(name: str) -> str:
    """Return the exporter's short name of a module: its last attribute, with the indices after it."""
    atoms = name.split(".")
    count = 1
    while count < len(atoms) and atoms[-count].isdigit():
        count += 1
    return ".".join(atoms[-count:])
