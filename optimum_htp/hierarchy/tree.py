"""The modules of a model: names, classes, and which of them are containers only.

Names are those of `named_modules()` of the whole model. In a separately exported part (an encoder), names begin at
the part. A tree contains both.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from optimum_htp.errors import MetadataError
from optimum_htp.hierarchy.rules import check_class, check_module
from optimum_htp.parsing import parse_json

__all__ = ["EXPERTS", "ROOT", "ModuleTree", "ancestors", "is_inside", "loose_shape", "parent_of", "shared_path"]

ROOT = ""
"""The name of the whole model."""
EXPERTS = "experts"
"""The name of a layer's experts in it, and in the names of their tensors."""

# Optimum appends this to the name of a weight that both branches of a merged decoder use:
# https://github.com/huggingface/optimum-onnx/blob/main/optimum/onnx/graph_transformations.py
_MERGED: Final = re.compile(r"_merged_\d+$")


@dataclass(frozen=True)
class ModuleTree:
    """The module tree of a model, and of its exported part.

    Attributes:
        classes: Class name of each module, by its name in the whole model, including the root. Empty if only names are
            known.
        containers: Modules that are never called: lists and dictionaries of modules.
        names: For each name in the exported part the name in the whole model. The part's root is `""`.
        parameters: For each parameter and buffer of the part the modules that own it; several if it is tied. Empty if
            this is unknown.
        shapes: For each module the shapes of its own parameters and buffers, in the form of `loose_shape`.
    """

    classes: Mapping[str, str]
    containers: frozenset[str] = frozenset()
    names: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, frozenset[str]] = field(default_factory=dict)
    shapes: Mapping[str, frozenset[tuple[int, ...]]] = field(default_factory=dict)

    @classmethod
    def of_names(cls, classes: Mapping[str, str]) -> ModuleTree:
        """Return the tree of a whole model, from names and classes only."""
        full = {ROOT: "", **classes}
        containers = {name for name, kind in full.items() if kind in ("ModuleList", "ModuleDict")}
        return cls(full, frozenset(containers) | _unnamed_lists(full), {name: name for name in full})

    @classmethod
    def of_scopes(cls, scopes: Iterable[Sequence[str]]) -> ModuleTree:
        """Return the tree built from the scopes in names, without classes, for files of unknown models."""
        names = {ROOT}
        for scope in sorted(map(tuple, scopes), key=lambda scope: (len(scope), scope)):
            here = ROOT
            for piece in scope:
                attribute, _, indices = piece.partition(".")
                holder = parent_of(here) if indices and here.rpartition(".")[2] == attribute else here
                full = f"{holder}.{piece}" if holder else piece
                first, _, number = full.rpartition("_")
                here = first if number.isdigit() and first in names else full
                names.add(here)
        return cls({}, _unnamed_lists(names), {name: name for name in names})

    def owners(self, parameter: str) -> frozenset[str]:
        """Return the modules that own a parameter of the part; empty for other names."""
        if self.parameters:
            return self.parameters.get(parameter) or self.parameters.get(_MERGED.sub("", parameter), frozenset())
        owner = parent_of(parameter)
        return frozenset({self.names[owner]}) if owner and owner in self.names else frozenset()

    @classmethod
    def from_json(cls, text: str) -> ModuleTree:
        """Parse the property `htp.modules`.

        Raises:
            MetadataError: It is invalid.
        """
        try:
            content = parse_json(text)
        except ValueError as error:
            raise MetadataError("htp.modules is not JSON.", "htp.modules") from error
        if not isinstance(content, dict) or not all(isinstance(kind, str) for kind in content.values()):
            raise MetadataError("htp.modules is not a JSON object of class names.", "htp.modules")
        return cls.of_names(
            {check_module(name, "htp.modules"): check_class(kind, "htp.modules") for name, kind in content.items()}
        )

    def below(self, root: str) -> ModuleTree:
        """Return the tree of a separately exported part: the whole model's module `root`."""
        if not root:
            return self
        start = len(root) + 1
        inside = {name[start:]: full for name, full in self.names.items() if name.startswith(f"{root}.")}
        owned = {name[start:]: owners for name, owners in self.parameters.items() if name.startswith(f"{root}.")}
        return ModuleTree(self.classes, self.containers, {ROOT: root, **inside}, owned, self.shapes)

    def to_json(self, used: Iterable[str]) -> str:
        """Return the modules that own nodes, and those around them, in the form of `htp.modules`."""
        wanted = {module for name in set(used) for module in (name, *ancestors(name))} | {ROOT}
        known = self.classes or dict.fromkeys(self.names.values(), "")
        kept = {name: kind for name, kind in known.items() if name in wanted}
        return json.dumps(kept, ensure_ascii=False, separators=(",", ":"))

    def tag(self, name: str) -> str:
        """Return a module's path of class names: `/BertModel/BertEncoder/BertLayer.0/BertAttention`.

        For an unknown class, the attribute's name is used.
        """
        return self._tag(name)

    @functools.cached_property
    def _tag(self) -> Callable[[str], str]:
        tags: dict[str, str] = {}

        def tag(name: str) -> str:
            unknown: list[str] = []
            for module in (name, *ancestors(name)):
                if module in tags:
                    break
                unknown.append(module)
            for module in reversed(unknown):
                tags[module] = self._tag_below(tags[parent_of(module)] if module else "", module)
            return tags[name]

        return tag

    def _tag_below(self, before: str, name: str) -> str:
        """Return a module's tag, given the tag of the module around it."""
        atom = name.rpartition(".")[2]
        if name in self.containers:
            return before
        kind = self.classes.get(name) or (atom if not atom.isdigit() else "")
        if not name and not kind:
            return ""
        return f"{before}/{kind}.{atom}" if atom.isdigit() else f"{before}/{kind}"

    def common(self, names: Iterable[str]) -> str:
        """Return the lowest module that contains all of these and is not only a container."""
        unique = set(names)
        if len(unique) == 1:
            return unique.pop()
        return self.caller(functools.reduce(shared_path, unique) if unique else ROOT)

    @functools.cached_property
    def _holders(self) -> frozenset[str]:
        return frozenset(parent_of(name) for name in self.names.values() if name)

    def holder(self, name: str) -> str:
        """Return a module itself if it has submodules, otherwise the module around it."""
        return name if name in self._holders else self.caller(parent_of(name))

    def caller(self, name: str) -> str:
        """Return a module itself; for a container or an unknown name, the module around it."""
        while name and (name in self.containers or (self.classes and name not in self.classes)):
            name = parent_of(name)
        return name


def loose_shape(shape: Iterable[int]) -> tuple[int, ...]:
    """Return a shape without what an exporter changes: the order of dimensions, and dimensions of size 1."""
    return tuple(sorted(size for size in shape if size != 1))


def parent_of(name: str) -> str:
    """Return the name of the parent module; the root for modules of the first level."""
    return name.rpartition(".")[0]


def is_inside(name: str, around: str) -> bool:
    """Whether a module is equal to another or inside it."""
    return name == around or not around or name.startswith(f"{around}.")


def shared_path(one: str, other: str) -> str:
    """Return the name of the lowest module that is equal to or around both."""
    if one == other:
        return one
    shared = []
    for mine, theirs in zip(one.split("."), other.split("."), strict=False):
        if mine != theirs:
            break
        shared.append(mine)
    return ".".join(shared)


def _unnamed_lists(names: Collection[str]) -> frozenset[str]:
    """Return the modules that contain numbered modules and are not known modules: lists, which no scope names."""
    holders = {parent_of(name) for name in names if name.rpartition(".")[2].isdigit()}
    return frozenset(holders.difference(names))


def ancestors(name: str) -> list[str]:
    """Return the names of the modules around a module, innermost first, the root last; empty for the root."""
    found = []
    while name:
        name = parent_of(name)
        found.append(name)
    return found
