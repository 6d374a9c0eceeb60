"""The pattern language for modules.

A pattern is a module's path with globs, or the name of a class:

    bert.encoder.layer.0              one module
    bert.encoder.layer.*.attention    `*` is one component of a path, or some characters of one (`layer.1*`)
    **.LayerNorm                      `**` is any number of components, including none
    BertSelfAttention                 every module of this class, if no path has this name

A pattern selects the matching modules and everything inside them. A pattern without a match is an error; the message
contains similar names.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final

from optimum_htp.errors import UnknownModuleError
from optimum_htp.hierarchy.assign import Assignment
from optimum_htp.hierarchy.tree import ROOT, ancestors

__all__ = ["as_patterns", "find_modules", "is_inside_any", "matching", "module_classes", "nearest"]

_ANY: Final = "**"
_SHOWN: Final = 3
_COMPARED: Final = 5000  # Names that are compared with a pattern without a match.
_LONGEST: Final = 200  # Characters of a name that is compared.


def as_patterns(patterns: str | Iterable[str]) -> tuple[str, ...]:
    """Return patterns, each once, from one or several."""
    return tuple(dict.fromkeys([patterns] if isinstance(patterns, str) else patterns))


def module_classes(assignment: Assignment) -> dict[str, str]:
    """Return the modules of a tagged graph: those that own nodes and those around them, each with its class.

    Containers (`ModuleList`) are included; an unknown class is empty. The order is that of the list in the file.
    """
    classes = dict(assignment.tree.classes) or {ROOT: ""}
    for module in dict.fromkeys(assignment.modules):
        for name in (module, *ancestors(module)):
            classes.setdefault(name, "")
    return classes


def find_modules(patterns: str | Iterable[str], classes: Mapping[str, str], where: object) -> list[str]:
    """Return the modules that match patterns, each once, in the order of the model.

    `where` is the file or folder, for the message.

    Raises:
        UnknownModuleError: A pattern matches none.
    """
    found: set[str] = set()
    for pattern in as_patterns(patterns):
        matched = matching(pattern, classes)
        if not matched:
            raise UnknownModuleError.of(pattern, nearest(pattern, classes), where)
        found.update(matched)
    return [name for name in classes if name in found]


def matching(pattern: str, classes: Mapping[str, str]) -> list[str]:
    """Return the modules that match one pattern. Class names are used only if no path matches."""
    pieces = pattern.split(".")
    by_path = [name for name in classes if pattern and _matches(pieces, name.split(".") if name else [])]
    if by_path:
        return by_path
    return [name for name, kind in classes.items() if kind and fnmatchcase(kind, pattern)]


def is_inside_any(module: str, others: Iterable[str]) -> bool:
    """Whether a module is equal to or inside one of others."""
    around = others if isinstance(others, (set, frozenset)) else set(others)
    return any(name in around for name in (module, *ancestors(module)))


def nearest(pattern: str, classes: Mapping[str, str]) -> list[str]:
    """Return a few patterns with matches that are similar to one without, the nearest first."""
    names = [name for name in classes if name and len(name) <= _LONGEST]
    if any(sign in pattern for sign in "*?["):
        names = [_generalized(name) for name in names]
    known = {name: name for name in names}
    known |= {kind: kind for kind in classes.values() if kind and len(kind) <= _LONGEST}
    if "." not in pattern.replace(f"{_ANY}.", ""):  # The last component of a path, without those before it.
        last = {name.rpartition(".")[2] for name in names}
        known |= {f"{_ANY}.{atom}": f"{_ANY}.{atom}" for atom in last if not atom.isdigit()}
        known |= {atom: f"{_ANY}.{atom}" for atom in last if not atom.isdigit() and atom not in known}
    compared = list(known)[:_COMPARED]
    close = difflib.get_close_matches(pattern, compared, n=2 * _SHOWN, cutoff=0.5)
    return list(dict.fromkeys(known[name] for name in close))[:_SHOWN]


def _matches(pieces: Sequence[str], atoms: Sequence[str]) -> bool:
    """Whether the components of a pattern match a path. All alternatives are followed at once."""

    def reached(places: Iterable[int]) -> set[int]:
        found: set[int] = set()
        for place in places:
            found.add(place)
            while place < len(pieces) and pieces[place] == _ANY:
                place += 1
                found.add(place)
        return found

    places = reached([0])
    for atom in atoms:
        places = reached(
            place if pieces[place] == _ANY else place + 1
            for place in places
            if place < len(pieces) and (pieces[place] == _ANY or fnmatchcase(atom, pieces[place]))
        )
    return len(pieces) in places


def _generalized(name: str) -> str:
    return ".".join("*" if atom.isdigit() else atom for atom in name.split("."))
