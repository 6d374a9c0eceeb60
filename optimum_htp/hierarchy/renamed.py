"""Finds parameters that an exporter renamed, by their values or shapes.

A transposed weight loses its name (`onnx::MatMul_42`). In most cases the node's scope determines its module. If the
scope's module has no parameter of that shape (functional attention, a table with fixed positions), the values are
compared with the parameters of that shape; nothing else is read. Without weights, the shape decides if only one
module has such a parameter.

Prefixes that a tool has put before all names of a graph, as `onnx.compose.add_prefix` does, are found and removed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from optimum_htp.hierarchy.assign import Assignment
from optimum_htp.hierarchy.tree import loose_shape
from optimum_htp.onnxfile import Graph, Node
from optimum_htp.onnxfile.contents import stored_tensors

__all__ = ["owners_by_shape", "owners_by_value", "without_prefix"]

_FLOATS: Final = ("float16", "float32", "float64")


def owners_by_value(path: Path, graph: Graph, assignment: Assignment, part: Any) -> dict[str, frozenset[str]]:
    """Return the modules that own initializers, if neither the names nor the scopes of their users determine them."""
    tree, strange = assignment.tree, _strange(graph, assignment)
    candidates: dict[tuple[int, ...], list[tuple[str, Any]]] = defaultdict(list)
    for name, tensor in [*part.named_parameters(remove_duplicate=False), *part.named_buffers(remove_duplicate=False)]:
        if tensor.is_floating_point() and loose_shape(tensor.shape) in strange.values():
            candidates[loose_shape(tensor.shape)].append((name, tensor))
    strange = {name: shape for name, shape in strange.items() if candidates[shape]}
    if not strange:
        return {}
    found: dict[str, frozenset[str]] = {}
    for stored in stored_tensors(path):
        if stored.name in strange:
            values, alike = stored.array(), candidates[strange[stored.name]]
            if owners := [tree.owners(parameter) for parameter, tensor in alike if _is(values, tensor)]:
                found[stored.name] = frozenset().union(*owners)
    return found


def owners_by_shape(graph: Graph, assignment: Assignment) -> dict[str, frozenset[str]]:
    """Return the owners by shape only, without weights: the single module that has a parameter of this shape."""
    homes: dict[tuple[int, ...], set[str]] = defaultdict(set)
    for module, shapes in assignment.tree.shapes.items():
        for shape in shapes:
            homes[shape].add(module)
    return {
        name: frozenset(homes[shape])
        for name, shape in _strange(graph, assignment).items()
        if len(shape) > 1 and len(homes[shape]) == 1
    }


def _strange(graph: Graph, assignment: Assignment) -> dict[str, tuple[int, ...]]:
    """Return the shapes of unnamed initializers that are used by a module without a parameter of that shape."""
    tree = assignment.tree
    unnamed = {
        tensor.name: loose_shape(tensor.shape)
        for tensor in graph.tensors
        if tensor.dtype in _FLOATS and loose_shape(tensor.shape) and not tree.owners(tensor.name)
    }
    return {
        name: unnamed[name]
        for node, module in zip(graph.nodes, assignment.modules, strict=True)
        for name in node.inputs
        if name in unnamed and unnamed[name] not in tree.shapes.get(module, ())
    }


def _is(values: Any, parameter: Any) -> bool:
    """Whether values equal a parameter, unchanged or transposed."""
    import numpy as np

    mine, theirs = np.squeeze(values), np.squeeze(parameter.detach().float().cpu().numpy())
    if mine.shape == theirs.shape and np.array_equal(mine, theirs):
        return True
    return mine.ndim == 2 and mine.shape == theirs.shape[::-1] and np.array_equal(mine.T, theirs)


_MOST: Final = 0.5  # Share of the nodes that must have the prefix.
_PIECES: Final = 4  # Components of a name within which a prefix may end.
_LONGEST: Final = 256  # Characters.


def without_prefix(graph: Graph, fit: Callable[[Graph], float]) -> Graph:
    """Return a graph without the prefix of its names if more names resolve without it; otherwise the graph itself.

    `fit` returns the share of a graph's names that resolve, from 0 to 1.
    """
    prefixes = list(_prefixes(graph))
    if not prefixes:
        return graph
    candidates = [graph, *(_stripped(graph, prefix) for prefix in prefixes)]
    return max(candidates, key=fit)


def _prefixes(graph: Graph) -> Iterator[str]:
    """Yield the common prefixes of most nodes' names, or of their values' names, the shortest first."""
    names = [name for node in graph.nodes if (name := _name_of(node))]
    counted: Counter[str] = Counter()
    for name in names:
        if name.startswith("/"):
            continue
        end, begun = -1, set()
        for _ in range(_PIECES):
            end = name.find("/", end + 1, _LONGEST)
            if end < 0:
                break
            begun |= {name[:end], name[: end + 1]}  # For a node without a scope, the slash may belong to the prefix.
        counted.update(begun)
    common = [prefix for prefix, count in counted.items() if count >= _MOST * len(names)]
    yield from sorted(common, key=len)


def _name_of(node: Node) -> str:
    return node.name if "/" in node.name else next(filter(None, node.outputs), "")


def _stripped(graph: Graph, prefix: str) -> Graph:
    def bare(name: str) -> str:
        return name.removeprefix(prefix)

    nodes = (
        node._replace(
            name=bare(node.name),
            inputs=tuple(map(bare, node.inputs)),
            outputs=tuple(map(bare, node.outputs)),
            within=tuple(map(bare, node.within)),
        )
        for node in graph.nodes
    )
    return replace(
        graph,
        inputs=tuple(replace(spec, name=bare(spec.name)) for spec in graph.inputs),
        outputs=tuple(replace(spec, name=bare(spec.name)) for spec in graph.outputs),
        nodes=tuple(nodes),
        initializers=tuple(tensor._replace(name=bare(tensor.name)) for tensor in graph.initializers),
        others=tuple(tensor._replace(name=bare(tensor.name)) for tensor in graph.others),
    )
