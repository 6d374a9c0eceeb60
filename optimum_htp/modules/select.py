"""Selects the nodes of modules by patterns, for tools that accept lists of node names."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from optimum_htp.hierarchy.assign import Assignment
from optimum_htp.hierarchy.tags import read_modules
from optimum_htp.modules.patterns import as_patterns, find_modules, is_inside_any, module_classes
from optimum_htp.onnxfile import Graph

__all__ = ["SelectedNode", "find_nodes", "find_nodes_of_files", "nodes_inside", "select_nodes"]


@dataclass(frozen=True, slots=True)
class SelectedNode:
    """A node of a module.

    Attributes:
        index: Its index in the graph; nodes of subgraphs are counted at their position.
        name: Its name; empty if it has none.
        module: The innermost module that it came from.
        class_name: That module's class; empty if it is unknown.
        op_type, domain: The operator.
        initializers: Names of the initializers that are its inputs.
    """

    index: int
    name: str
    module: str
    class_name: str
    op_type: str
    domain: str
    initializers: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {**dataclasses.asdict(self), "initializers": list(self.initializers)}


def select_nodes(path: str | os.PathLike[str], patterns: str | Iterable[str]) -> list[str]:
    """Return the names of the nodes of modules, in the order of the file, including nodes of subgraphs.

    Args:
        path: A tagged ONNX file.
        patterns: Module paths with globs, or class names (see `patterns`): `bert.encoder.layer.*.attention`.

    Raises:
        OnnxFileNotFoundError, InvalidOnnxFileError: There is no ONNX model at the path.
        MetadataError: The file has no tags, or they are invalid.
        UnknownModuleError: A pattern matches no module.
    """
    return list(dict.fromkeys(node.name for node in find_nodes(path, patterns) if node.name))


def find_nodes(path: str | os.PathLike[str], patterns: str | Iterable[str]) -> list[SelectedNode]:
    """Return the nodes of modules with details. Arguments and exceptions are those of `select_nodes`."""
    graph, assignment = read_modules(path)
    modules = find_modules(as_patterns(patterns), module_classes(assignment), path)
    return nodes_inside(graph, assignment, modules)


def find_nodes_of_files(
    paths: Sequence[str | os.PathLike[str]], patterns: str | Iterable[str]
) -> dict[str, list[SelectedNode]]:
    """Return the nodes of modules in each of a model's files. A pattern must match in at least one of them.

    Raises:
        UnknownModuleError: A pattern matches no module of any file.
    """
    read = {os.fspath(path): read_modules(path) for path in paths}
    classes = {file: module_classes(assignment) for file, (_, assignment) in read.items()}
    every = {name: kind for known in classes.values() for name, kind in known.items()}
    wanted = find_modules(as_patterns(patterns), every, next(iter(read)) if len(read) == 1 else "The model")
    return {file: nodes_inside(graph, assignment, wanted) for file, (graph, assignment) in read.items()}


def nodes_inside(graph: Graph, assignment: Assignment, modules: Iterable[str]) -> list[SelectedNode]:
    """Return the nodes of a graph that came from some modules, or from submodules of them."""
    chosen = frozenset(modules)
    wanted = {module for module in set(assignment.modules) if is_inside_any(module, chosen)}
    initializers = {tensor.name for tensor in graph.initializers}
    return [
        SelectedNode(
            index,
            node.name,
            module,
            assignment.tree.classes.get(module, ""),
            node.op_type,
            node.domain,
            tuple(dict.fromkeys(value for value in node.inputs if value in initializers)),
        )
        for index, (node, module) in enumerate(zip(graph.nodes, assignment.modules, strict=True))
        if module in wanted
    ]
