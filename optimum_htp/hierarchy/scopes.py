"""Scopes in names: from `/encoder/layer.0/attention/self/query/MatMul` to `encoder.layer.0.attention.self.query`.

PyTorch's TorchScript exporter names nodes and values by the modules that were being called, outermost first. Of each
module it writes the last attribute with the indices behind it (`layer.0`, `weight.0`), and a suffix from the second
call on (`attention_1`). So a scope is walked down the tree of modules, one call a piece.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from optimum_htp.hierarchy.tree import ROOT, ModuleTree, parent_of

__all__ = ["Resolved", "ScopeResolver", "scope_of", "short_name"]

_SECOND_CALL: Final = re.compile(r"_\d+$")


@dataclass(frozen=True)
class Resolved:
    """What a scope leads to.

    Attributes:
        module: Name in the whole model.
        again: Whether a second call of a module is on the way.
        whole: Whether every piece of the scope is a module.
        others: Modules that it could as well lead to: those of the same attribute name that are called alike.
    """

    module: str
    again: bool = False
    whole: bool = True
    others: tuple[str, ...] = ()


def scope_of(name: str) -> tuple[str, ...] | None:
    """Return the pieces of a node's or value's scope, without what names the operation; None where it has none."""
    if not name.startswith("/"):
        return None
    return tuple(name.split("/")[1:-1])


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

    def fits(self, scope: tuple[str, ...]) -> bool:
        """Whether every piece of a scope is a module right inside the one before it."""
        here = ROOT
        for piece in scope:
            inside = [
                name
                for one in (piece, _SECOND_CALL.sub("", piece))
                for name in self._named.get(one, ())
                if self._holder(name) == here
            ]
            if not inside:
                return False
            here = inside[0]
        return True

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
        here, again = ROOT, False
        for piece in scope:
            found = self._called(here, piece)
            if found is None and (bare := _SECOND_CALL.sub("", piece)) != piece:
                found, again = self._called(here, bare), True
            if found is None:
                return Resolved(self._tree.names.get(here, here), again, whole=False)
            here = found
        skipped = any(atom.isdigit() for atom in here.split(".")) and not any("." in piece for piece in scope)
        alike = self._alike(here) if skipped else ()
        return Resolved(self._tree.names.get(here, here), again, others=alike)

    def _alike(self, name: str) -> tuple[str, ...]:
        """Return the modules of the same name in the other items of a list: their scopes lack the item where its
        forward was called directly.
        """
        pattern = _without_items(name)
        found = (one for one in self._named[short_name(name)] if one != name and _without_items(one) == pattern)
        return tuple(self._tree.names.get(one, one) for one in found)

    def _seen(self, scope: tuple[str, ...]) -> Resolved | None:
        """Return the module that was called in a scope; the suffix of the last piece counts the calls."""
        if scope in self._calls:
            return self._call(self._calls[scope], 0)
        bare, _, number = scope[-1].rpartition("_") if scope else ("", "", "")
        calls = self._calls.get((*scope[:-1], bare), ()) if number.isdigit() else ()
        if not calls or int(number) >= len(calls):
            return None
        return self._call(calls, int(number))

    def _call(self, calls: Sequence[str], index: int) -> Resolved:
        """Return one of the modules that were called in a scope.

        The exporter counts only the calls that left nodes, so where different modules were called the others stay in
        question.
        """
        modules = [self._tree.names.get(name, name) for name in calls]
        others = tuple(dict.fromkeys(one for one in modules if one != modules[index]))
        return Resolved(modules[index], again=index > 0, others=others)

    def _called(self, caller: str, piece: str) -> str | None:
        """Return the module of that attribute name which a module called.

        Its nearest descendant, else (for a module that is registered elsewhere and shared) the one that is nearest
        in the tree.
        """
        candidates = self._named.get(piece, ())
        below = [name for name in candidates if not caller or name.startswith(f"{caller}.")]
        if below:
            return min(below, key=lambda name: name.count("."))
        if not candidates:
            return None
        return max(candidates, key=lambda name: len(_shared_path(name, caller)))


def _without_items(name: str) -> str:
    return ".".join(atom for atom in name.split(".") if not atom.isdigit())


def short_name(name: str) -> str:
    """Return what the exporter writes of a module's name: its last attribute, with the indices behind it."""
    atoms = name.split(".")
    count = 1
    while count < len(atoms) and atoms[-count].isdigit():
        count += 1
    return ".".join(atoms[-count:])


def _shared_path(one: str, other: str) -> str:
    while one and other != one and not other.startswith(f"{one}."):
        one = parent_of(one)
    return one
