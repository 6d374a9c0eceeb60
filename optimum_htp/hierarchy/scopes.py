"""Scopes in names: from `/encoder/layer.0/attention/self/query/MatMul` to `encoder.layer.0.attention.self.query`.

PyTorch's TorchScript exporter names nodes and values by the modules that were being called, outermost first. Of each
module it writes the last attribute with the indices behind it (`layer.0`, `weight.0`), and a suffix from the second
call on (`attention_1`). So a scope is walked down the tree of modules, one call a piece.
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
"""What ONNX Runtime's optimizer writes before the name of a layer into which it fuses the activation behind it."""


@dataclass(frozen=True)
class Resolved:
    """What a scope leads to.

    Attributes:
        module: Name in the whole model; where that is not certain, of the module around all that it may be.
        again: Whether a second call of a module is on the way.
        whole: Whether every piece of the scope is a module.
        others: The modules that it could lead to: those of the same attribute name that are called alike.
        certain: Whether `module` is the only one.
    """

    module: str
    again: bool = False
    whole: bool = True
    others: frozenset[str] = frozenset()
    certain: bool = True


def is_called_inside(resolver: ScopeResolver, tree: ModuleTree, scope: tuple[str, ...], module: str) -> bool | None:
    """Whether a scope leads through a call of a module; None where it does not lead to something in that module.

    A model may call what is in a module without calling that: OWL-ViT uses a layer norm of its vision tower on the
    result of the tower.
    """
    callee = tree.caller(module)
    for length in range(len(scope) + 1):
        resolved = resolver.resolve(scope[:length])
        if resolved.whole and callee in map(tree.caller, resolved.others):  # which of several, the node's tag says
            return True
    resolved = resolver.resolve(scope)
    return False if resolved.whole and any(is_inside(one, module) for one in resolved.others) else None


def scope_of(name: str) -> tuple[str, ...] | None:
    """Return the pieces of a node's or value's scope, without what names the operation; None where it has none."""
    name = name.removeprefix(_FUSED)
    if not name.startswith("/") or not is_within_bounds(name):
        return None
    return tuple(name.split("/")[1:-1])


@dataclass(frozen=True)
class _Homes:
    """Where the modules of one attribute name are: for each module the nearest inside it, and the first that is it or
    inside it, in the order of the tree.
    """

    nearest: dict[str, str] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)


class ScopeResolver:
    """Finds the modules that scopes name, in the tree of the part that was exported.

    Args:
        tree: The tree.
        calls: For each scope, without suffixes, the modules that were called in it while the part was traced, in
            order, by their names in the part. Where that is known, nothing has to be concluded.
    """

    def __init__(self, tree: ModuleTree, calls: Mapping[tuple[str, ...], Sequence[str]] | None = None) -> None:
        self._tree = tree
        self._calls = calls or {}
        self._named: dict[str, list[str]] = defaultdict(list)
        for name in tree.names:
            if name:
                self._named[short_name(name)].append(name)
        self.resolve = functools.cache(self._resolve)
        # What follows is made for an attribute name when that is first met, so that a step of a scope is one look-up.
        self._homes = functools.cache(self._homes_of)
        self._held = functools.cache(self._held_of)
        self._like = functools.cache(self._like_of)

    def fits(self, scope: tuple[str, ...]) -> bool:
        """Whether every piece of a scope is a module right inside the one before it."""
        here = ROOT
        for piece in scope:
            inside = self._held(piece).get(here) or self._held(_SECOND_CALL.sub("", piece)).get(here)
            if inside is None:
                return False
            here = inside
        return True

    def _held_of(self, short: str) -> dict[str, str]:
        """Return the modules of an attribute name, the first that each module holds by that."""
        held: dict[str, str] = {}
        for name in self._named.get(short, ()):
            held.setdefault(self._holder(name), name)
        return held

    def _holder(self, name: str) -> str:
        """Return the name, in the part, of the module around one; containers are looked through."""
        holder = parent_of(name)
        while holder and self._tree.names.get(holder, holder) in self._tree.containers:
            holder = parent_of(holder)
        return holder

    def _resolve(self, scope: tuple[str, ...]) -> Resolved:
        """Return the module that a scope leads to, as far as it leads."""
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
        """Yield the modules that a piece of a scope may mean, and whether it counts a second call on the way.

        `conv_1` is the module `conv_1`, or the second call of the module `conv` beside it.
        """
        found = self._called(here, piece)
        if found is not None:
            yield found, again
        if (bare := _SECOND_CALL.sub("", piece)) != piece:
            repeated = self._called(here, bare)
            if repeated is not None and (found is None or parent_of(repeated) == parent_of(found)):
                yield repeated, True

    def _like_of(self, short: str) -> dict[str, frozenset[str]]:
        """Return the modules of an attribute name, grouped with those of the same name in the other items of a list:
        their scopes lack the item where its forward was called directly.
        """
        groups: dict[str, set[str]] = defaultdict(set)
        for name in self._named[short]:
            groups[_without_items(name)].add(self._tree.names.get(name, name))
        return {pattern: frozenset(group) for pattern, group in groups.items()}

    def _seen(self, scope: tuple[str, ...]) -> Resolved | None:
        """Return the module that was called in a scope; the suffix of the last piece counts the calls."""
        bare, _, number = scope[-1].rpartition("_") if scope else ("", "", "")
        calls = self._calls.get((*scope[:-1], bare), ()) if number.isdigit() else ()
        repeated = self._call(calls, int(number)) if calls and int(number) < len(calls) else None
        first = self._call(self._calls[scope], 0) if scope in self._calls else None
        if first is None or repeated is None:
            return first or repeated
        return self._one_of(first.others | repeated.others, again=True)

    def _call(self, calls: Sequence[str], index: int) -> Resolved:
        """Return one of the modules that were called in a scope.

        The exporter counts only the calls that left nodes, so where different modules were called the others stay in
        question.
        """
        modules = [self._tree.names.get(name, name) for name in calls]
        return Resolved(modules[index], again=index > 0, others=frozenset(modules))

    def _called(self, caller: str, piece: str) -> str | None:
        """Return the module of that attribute name which a module called.

        Its nearest descendant, else (for a module that is registered elsewhere and shared) the one that is nearest
        in the tree.
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
    """Return what the exporter writes of a module's name: its last attribute, with the indices behind it."""
    atoms = name.split(".")
    count = 1
    while count < len(atoms) and atoms[-count].isdigit():
        count += 1
    return ".".join(atoms[-count:])
