"""Observes an export: the module tree of each part at the moment of its export, with all patches and wrappers.

`torch.onnx.export` is wrapped while Optimum runs. Just before it traces a part, the part's modules are recorded, by
identity with those of the whole model, and which modules call which. Directly after the trace, each node of the graph
gets its module, before any pass changes the graph.
"""

from __future__ import annotations

import functools
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

from optimum_htp.hierarchy.assign import Assignment, assign
from optimum_htp.hierarchy.parts import COMPONENTS
from optimum_htp.hierarchy.renamed import owners_by_value
from optimum_htp.hierarchy.rewritten import Original, assign_rewritten
from optimum_htp.hierarchy.scopes import ScopeResolver, short_name
from optimum_htp.hierarchy.tree import ROOT, ModuleTree, loose_shape
from optimum_htp.onnxfile import read_graph

__all__ = ["ExportedParts", "module_tree", "watched_exports"]

_PARAMETERS: Final = ("model", "args", "f")  # The first parameters of `torch.onnx.export`.


@dataclass(frozen=True)
class _Part:
    original: Original
    file: tuple[int, int]  # Size and time of the file, to recognize it later.


@dataclass
class ExportedParts:
    """The exported parts of a model, by the file of each.

    Attributes:
        folder: The output folder.
        whole: Returns the whole model; called at the export of its first part.
        faults: Exceptions during the lookup of a part's modules, by its file.
    """

    folder: Path
    whole: Callable[[], Any]
    faults: dict[str, Exception] = field(default_factory=dict)
    _parts: dict[str, _Part] = field(default_factory=dict)

    @property
    def modules(self) -> frozenset[str]:
        """The modules that own nodes, of all parts."""
        return frozenset(module for part in self._parts.values() for module in part.original.assignment.modules)

    def try_to_add(self, name: str, part: Any, calls: dict[tuple[str, ...], list[str]]) -> None:
        """Record a part during an export of other code, which must continue in any case."""
        try:
            self.add(name, part, calls)
        except Exception as error:  # noqa: BLE001 - the caller decides what a file without tags is worth
            self.faults[name] = error

    def add(self, name: str, part: Any, calls: dict[tuple[str, ...], list[str]]) -> None:
        """Record a part that has just been exported to a file in the folder."""
        tree = module_tree(self.whole(), part, name)
        resolver = ScopeResolver(tree, calls)
        graph = read_graph(self.folder / name)
        owners = owners_by_value(self.folder / name, graph, assign(graph, resolver, tree), part)
        original = Original(graph, assign(graph, resolver, tree, owners))
        self._parts[name] = _Part(original, _identity(self.folder / name))

    def assignment(self, name: str, path: Path) -> Assignment | None:
        """Return the modules of a file's nodes, also after passes; None if its export was not observed.

        The name is Optimum's, the path is the present one.

        Raises:
            Exception: One of the `faults`, if the file is that part or was made from it.
        """
        if name in self.faults or (self.faults and name not in self._parts):
            raise self.faults.get(name) or next(iter(self.faults.values()))
        parts = [self._parts[name]] if name in self._parts else list(self._parts.values())
        if not parts:
            return None
        if name in self._parts and parts[0].file == _identity(path):
            return parts[0].original.assignment
        tree = parts[0].original.assignment.tree
        for part in parts[1:]:  # A merged file.
            other = part.original.assignment.tree
            names, parameters = {**other.names, **tree.names}, {**other.parameters, **tree.parameters}
            tree = ModuleTree(tree.classes, tree.containers, names, parameters, {**other.shapes, **tree.shapes})
        return assign_rewritten([part.original for part in parts], read_graph(path), ScopeResolver(tree), tree)


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def module_tree(whole: Any, part: Any, file: str = "model.onnx") -> ModuleTree:
    """Return the tree of a part of a model, with the names of its modules in the whole model.

    Args:
        whole: The model, or a diffusers pipeline.
        part: The exported module: the model, one of its modules, or a wrapper around some.
        file: The output file; its folder has the name of a pipeline's component.
    """
    from torch import nn

    if isinstance(whole, nn.Module):
        roots = {ROOT: whole}
    else:  # A pipeline: the component, by its name.
        folder = PurePosixPath(file).parent.name
        component = COMPONENTS.get(folder, folder)
        roots = {component: part}
    known = {
        id(module): ".".join(filter(None, (root, path)))
        for root, top in roots.items()
        for path, module in top.named_modules()
    }
    known_part = known.get(id(part), _place_of_copy(whole, part) if isinstance(whole, nn.Module) else ROOT)
    names = {}
    for path, module in part.named_modules():
        names[path] = known.get(id(module)) or (known_part if not path else "")
        if path and not names[path]:  # A module of a wrapper, or of a copy.
            holder = names.get(path.rpartition(".")[0], known_part)
            names[path] = ".".join(filter(None, (holder, path.rpartition(".")[2])))
    for path, module in part.named_modules(remove_duplicate=False):  # A shared module has several names.
        names.setdefault(path, known.get(id(module)) or path)
    classes = {ROOT: type(whole).__name__}
    containers = set()
    every = [(names[path], module) for path, module in part.named_modules()]
    for path, module in [*_named(roots), *every]:
        classes.setdefault(path, type(module).__name__)
        if type(module).forward is nn.Module.forward and not any(_own_tensors(module)):
            containers.add(path)
    by_identity: dict[int, set[str]] = defaultdict(set)
    for path, module in every:
        for _, tensor in _own_tensors(module):
            by_identity[id(tensor)].add(path)
    parameters = {
        ".".join(filter(None, (path, name))): frozenset(by_identity[id(tensor)])
        for path, module in part.named_modules()
        for name, tensor in _own_tensors(module)
    }
    shapes = {path: frozenset(loose_shape(own.shape) for _, own in _own_tensors(module)) for path, module in every}
    return ModuleTree(classes, frozenset(containers - {ROOT}), names, parameters, shapes)


def _own_tensors(module: Any) -> Iterator[tuple[str, Any]]:
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)


def _named(roots: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for root, top in roots.items():
        for path, module in top.named_modules():
            yield ".".join(filter(None, (root, path))), module


def _place_of_copy(whole: Any, part: Any) -> str:
    """Return the name of the module that a part is a copy of: the only one of its class, otherwise the root."""
    alike = [name for name, module in whole.named_modules() if type(module) is type(part)]
    return alike[0] if len(alike) == 1 else ROOT


@contextmanager
def watched_exports(folder: Path, whole: Callable[[], Any], *, wanted: bool) -> Iterator[ExportedParts]:
    """Record what `torch.onnx.export` writes into a folder while the block runs, in this thread.

    Exports of other threads, to a buffer, or to another folder are not affected.

    `whole` returns the whole model. It is called at the export of its first part.
    """
    import torch.onnx
    from torch import nn

    parts = ExportedParts(folder, whole)
    if not wanted:
        yield parts
        return
    original = torch.onnx.export
    mine = threading.get_ident()

    @functools.wraps(original)
    def export(*args: Any, **kwargs: Any) -> Any:
        given = dict(zip(_PARAMETERS, args, strict=False)) | kwargs
        name = _name_inside(folder, given.get("f")) if threading.get_ident() == mine else None
        model = given.get("model")
        if name is None or not isinstance(model, nn.Module):
            return original(*args, **kwargs)
        with _watched_calls(model) as calls:
            result = original(*args, **kwargs)
        parts.try_to_add(name, model, calls)
        return result

    torch.onnx.export = export
    try:
        yield parts
    finally:
        if torch.onnx.export is export:
            torch.onnx.export = original


def _name_inside(folder: Path, target: Any) -> str | None:
    """Return the name of a file relative to a folder; None for a buffer, no target, or a file elsewhere."""
    if not isinstance(target, (str, os.PathLike)):
        return None
    path = Path(os.fsdecode(target))
    return path.relative_to(folder).as_posix() if folder in path.parents else None


@contextmanager
def _watched_calls(model: Any) -> Iterator[dict[tuple[str, ...], list[str]]]:
    """Record the called modules, in order, by the scope that PyTorch's exporter gives each call."""
    from torch import nn
    from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

    names = {id(module): name for name, module in model.named_modules()}
    mine = threading.get_ident()  # The hooks are called in every thread.
    calls: dict[tuple[str, ...], list[str]] = defaultdict(list)
    running: list[tuple[str, ...]] = []

    def enter(module: Any, inputs: Any) -> None:
        name = names.get(id(module)) if threading.get_ident() == mine else None
        if name is not None:
            # PyTorch's exporter counts the calls that left nodes; these leave none.
            if isinstance(module, (nn.Identity, nn.modules.dropout._DropoutNd)):
                running.append(running[-1] if running else ())
                return
            scope = (*(running[-1] if running else ()), *((short_name(name),) if name else ()))
            calls[scope].append(name)
            running.append(scope)

    def leave(module: Any, inputs: Any, output: Any) -> None:
        if running and threading.get_ident() == mine and id(module) in names:
            running.pop()

    hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
