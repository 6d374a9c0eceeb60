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
    """

    module: str
    again: bool = False
    whole: bool = True


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
        return Resolved(self._tree.names.get(here, here), again)

    def _seen(self, scope: tuple[str, ...]) -> Resolved | None:
        """Return the module that was called in a scope; the suffix of the last piece counts the calls."""
        if scope in self._calls:
            name = self._calls[scope][0]
            return Resolved(self._tree.names.get(name, name))
        bare, _, number = scope[-1].rpartition("_") if scope else ("", "", "")
        calls = self._calls.get((*scope[:-1], bare), ()) if number.isdigit() else ()
        if not calls or int(number) >= len(calls):
            return None
        name = calls[int(number)]
        return Resolved(self._tree.names.get(name, name), again=True)

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
