"""Quantizing by module: replaces patterns in the lists of node names that tools accept.

In a tagged file, an entry that is not the name of a node is a pattern. Of the files of one model, a pattern must
match in at least one.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from optimum_htp.errors import ArgumentError, MetadataError
from optimum_htp.hierarchy.assign import Assignment
from optimum_htp.hierarchy.tags import read_modules, tagged_assignment
from optimum_htp.modules.patterns import as_patterns, find_modules, matching, module_classes
from optimum_htp.modules.select import SelectedNode, nodes_inside
from optimum_htp.onnxfile import Graph, Node, OpenModel

__all__ = ["ModuleChoice", "choosing", "with_nodes_of_modules"]

_ALL: Final = "**"
_GEMM_SPLIT: Final = ("_MatMul", "_Add")


@dataclass(frozen=True)
class ModuleChoice:
    """The modules that the user selected for a model's files.

    Attributes:
        files: The files.
        exclude: Patterns of modules that are not quantized.
        only: Patterns of the only modules that are quantized; empty for all.
    """

    files: tuple[Path, ...] = ()
    exclude: tuple[str, ...] = ()
    only: tuple[str, ...] = ()


_choice: Final[ContextVar[ModuleChoice | None]] = ContextVar("optimum_htp_module_choice", default=None)


@contextmanager
def choosing(choice: ModuleChoice) -> Iterator[None]:
    """Apply the selection to the quantizers that run in the block, in this thread.

    Raises:
        MetadataError: Modules are named, and a file has no tags.
        UnknownModuleError: A pattern matches in none of the files.
    """
    if choice.exclude or choice.only:
        classes: dict[str, str] = {}
        for file in choice.files:
            classes |= module_classes(read_modules(file)[1])
        where = choice.files[0] if len(choice.files) == 1 else "The model"
        find_modules((*choice.exclude, *choice.only), classes, where)
    token = _choice.set(choice)
    try:
        yield
    finally:
        _choice.reset(token)


def with_nodes_of_modules(config: Any, path: str | os.PathLike[str]) -> Any:
    """Return a quantization config with node names in place of patterns; the config itself without patterns.

    Args:
        config: A config of Optimum, with `nodes_to_quantize` and `nodes_to_exclude`.
        path: The ONNX file to quantize.

    Raises:
        UnknownModuleError: An entry is neither a node's name nor a pattern that matches a module.
        MetadataError: The tags of the file are invalid.
        ArgumentError: A selected node has no name.
    """
    import copy

    choice = _choice.get() or ModuleChoice()
    lists = {name: list(getattr(config, name, None) or ()) for name in ("nodes_to_quantize", "nodes_to_exclude")}
    if not any(lists.values()) and not choice.exclude and not choice.only:
        return config
    read = _read(path)
    if read is None:
        return config
    graph, assignment = read
    others = [file for file in choice.files if file != Path(path)]
    new = {name: _named(entries, path, graph, assignment, others) for name, entries in lists.items()}
    new["nodes_to_exclude"] += _nodes(choice.exclude, path, graph, assignment)
    if choice.only:
        only = _nodes(choice.only, path, graph, assignment)
        new["nodes_to_quantize"] += only
        if not only:  # An empty list means all.
            new["nodes_to_exclude"] += _nodes([_ALL], path, graph, assignment)
    if new == lists:
        return config
    changed = copy.copy(config)
    for name, entries in new.items():
        setattr(changed, name, list(dict.fromkeys(entries)))
    return changed


def _read(path: str | os.PathLike[str]) -> tuple[Graph, Assignment] | None:
    """Return a file's graph and the modules of its nodes; None if it has no tags."""
    with OpenModel.at(path) as model:
        try:
            assignment = tagged_assignment(model.header, model.graph)
        except MetadataError as error:
            raise MetadataError(f"{path}: {error}", error.key) from error
        return None if assignment is None else (model.graph, assignment)


def _named(
    entries: Sequence[str],
    path: str | os.PathLike[str],
    graph: Graph,
    assignment: Assignment,
    others: Collection[Path],
) -> list[str]:
    """Return the entries with patterns replaced by the names of nodes."""
    names = _node_names(graph)
    patterns = [entry for entry in entries if entry not in names]
    if not patterns:
        return list(entries)
    classes = module_classes(assignment)
    unknown = [pattern for pattern in patterns if not matching(pattern, classes)]
    if unknown:
        for graph_of_other, modules in filter(None, map(_read, others)):
            elsewhere = _node_names(graph_of_other)
            known = module_classes(modules)
            unknown = [pattern for pattern in unknown if pattern not in elsewhere and not matching(pattern, known)]
        find_modules(unknown, classes, path)  # It raises an exception for an unknown one.
    return [
        name for entry in entries for name in ([entry] if entry in names else _nodes([entry], path, graph, assignment))
    ]


def _node_names(graph: Graph) -> set[str]:
    """Return the names of nodes: those of the file, and those that ONNX Runtime gives to the halves of a Gemm."""
    return {node.name for node in graph.nodes} | set(_split_names(graph.nodes))


def _split_names(nodes: Iterable[Node | SelectedNode]) -> list[str]:
    """Return the names that ONNX Runtime uses. It first splits a Gemm in two."""
    return [f"{node.name}{suffix}" for node in nodes if node.op_type == "Gemm" and node.name for suffix in _GEMM_SPLIT]


def _nodes(patterns: Iterable[str], path: str | os.PathLike[str], graph: Graph, assignment: Assignment) -> list[str]:
    """Return the names of the nodes of modules; empty for patterns that match nothing in this file."""
    classes = module_classes(assignment)
    modules = [module for pattern in as_patterns(patterns) for module in matching(pattern, classes)]
    nodes = nodes_inside(graph, assignment, modules)
    nameless = next((node for node in nodes if not node.name), None)
    if nameless is not None:
        raise ArgumentError(
            f"{path}: a {nameless.op_type} of {nameless.module or 'the model itself'} has no name, and quantizers "
            "select nodes by name. Export the model again, or name its nodes."
        )
    return [*(node.name for node in nodes), *_split_names(nodes)]
