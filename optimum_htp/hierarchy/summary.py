"""The cost of each module in a graph: nodes, operators, parameters and bytes, own and including submodules.

An initializer belongs to the module of the nodes that use it, or to their common module.

Weights have a format: floats of some size, or quantized. The element type of an initializer is not enough: four-bit
weights are packed into bytes, and scales and zero points belong to other weights. So the operator and the input index
decide, for the operators of ONNX (https://onnx.ai/onnx/operators/) and of ONNX Runtime
(https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from optimum_htp.hierarchy.assign import Assignment
from optimum_htp.hierarchy.tree import ROOT, ModuleTree, parent_of, shared_path
from optimum_htp.onnxfile import Graph, Initializer, Node
from optimum_htp.onnxfile.operators import PACKED, number_of_bits, quantized_inputs
from optimum_htp.onnxfile.tensors import bits_of

__all__ = ["ModuleSummary", "summarize"]

# A shared weight passes through these to the nodes that use it.
_PASSED_THROUGH: Final = frozenset({"Identity", "Cast", "Transpose", "DequantizeLinear"})
_FULL: Final = 4  # Bytes of a float32, the base for saved bytes.
_MOST_ELEMENTS: Final = 1 << 63  # Elements of a tensor.

_FLOATS: Final = ("float", "bfloat")
_SUFFIXES: Final = (
    "_scale",
    "_zero_point",
)  # Suffixes in the names of ONNX Runtime's quantizer, in addition to `_quantized`.


@dataclass
class ModuleSummary:
    """The cost of a module.

    Attributes:
        name: Name in the whole model; empty for the root.
        class_name: Its class; empty if it is unknown.
        depth: Levels below the root.
        own_nodes, nodes: Number of nodes, own and including submodules.
        operators: Number of nodes by operator, including submodules.
        own_parameters, parameters: Number of elements of initializers.
        own_bytes, bytes: Size of the initializers in bytes.
        own_weights, weights: Bytes of its weights by format: float32, float16, int8, int4.
        own_saved_bytes, saved_bytes: Bytes saved compared with float32, including scales and zero points.
        own_microseconds, microseconds: Time of its nodes, if they were timed.
        children: Submodules that have nodes.
    """

    name: str
    class_name: str
    depth: int
    own_nodes: int = 0
    nodes: int = 0
    operators: Counter[str] = field(default_factory=Counter)
    own_parameters: int = 0
    parameters: int = 0
    own_bytes: int = 0
    bytes: int = 0
    own_weights: Counter[str] = field(default_factory=Counter)
    weights: Counter[str] = field(default_factory=Counter)
    own_saved_bytes: int = 0
    saved_bytes: int = 0
    own_microseconds: float = 0.0
    microseconds: float = 0.0
    children: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, the most frequent operators first."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        counted = ("operators", "own_weights", "weights")
        return {**plain, **{name: dict(plain[name].most_common()) for name in counted}}


def summarize(
    graph: Graph, assignment: Assignment, microseconds: Mapping[int, float] | None = None
) -> dict[str, ModuleSummary]:
    """Return the modules that own nodes, and those around them, in the order of the graph, the root first.

    `microseconds` has the time of each node, by its index.
    """
    tree = assignment.tree
    modules: dict[str, ModuleSummary] = {ROOT: _new(ROOT, tree, 0)}
    for index, name in enumerate(assignment.modules):
        module = _ensure(modules, tree, name)
        operator = graph.nodes[index].op_type
        spent = (microseconds or {}).get(index, 0.0)
        module.own_nodes += 1
        module.operators[operator] += 1
        module.own_microseconds += spent
    owners = _owners_of(graph, assignment)
    for name, kept in _kept_weights(graph).items():
        module = _ensure(modules, tree, owners.get(name, ROOT))
        module.own_parameters += kept.elements
        module.own_bytes += kept.bytes
        module.own_saved_bytes += kept.saved
        if kept.format is not None:
            module.own_weights[kept.format] += kept.bytes
    for module in reversed(modules.values()):  # A module comes after the one around it.
        inside = [modules[child] for child in module.children]
        module.nodes = module.own_nodes + sum(child.nodes for child in inside)
        module.parameters = module.own_parameters + sum(child.parameters for child in inside)
        module.bytes = module.own_bytes + sum(child.bytes for child in inside)
        module.saved_bytes = module.own_saved_bytes + sum(child.saved_bytes for child in inside)
        module.weights = module.own_weights.copy()
        module.microseconds = module.own_microseconds + sum(child.microseconds for child in inside)
        for child in inside:
            module.operators.update(child.operators)
            module.weights.update(child.weights)
    return modules


def _new(name: str, tree: ModuleTree, depth: int) -> ModuleSummary:
    return ModuleSummary(name, tree.classes.get(name, ""), depth)


def _ensure(modules: dict[str, ModuleSummary], tree: ModuleTree, name: str) -> ModuleSummary:
    """Return a module's summary. New summaries are created for it and the modules around it. Containers have none."""
    missing = []
    around = name
    while around not in modules:
        missing.append(around)
        around = tree.caller(parent_of(around))
    for module in reversed(missing):
        modules[around].children.append(module)
        modules[module] = _new(module, tree, modules[around].depth + 1)
        around = module
    return modules[name]


def _owners_of(graph: Graph, assignment: Assignment) -> dict[str, str]:
    """Return the common module of the nodes that use each initializer. Each value is visited once."""
    users: dict[str, list[int]] = defaultdict(list)
    for index, node in enumerate(graph.nodes):
        for value in dict.fromkeys(node.inputs):
            users[value].append(index)

    def passed_on(value: str) -> list[str]:
        through = (graph.nodes[index] for index in users.get(value, ()))
        return [made for node in through if node.op_type in _PASSED_THROUGH for made in node.outputs[:1]]

    homes: dict[str, str | None] = {}
    started: set[str] = set()
    waiting = [tensor.name for tensor in graph.tensors]
    while waiting:
        value = waiting[-1]
        if value in started:
            waiting.pop()
            if value not in homes:
                using = {assignment.modules[index] for index in users.get(value, ())}
                using |= {home for made in passed_on(value) if (home := homes.get(made)) is not None}
                homes[value] = functools.reduce(shared_path, using) if using else None
        else:
            started.add(value)
            waiting += [made for made in passed_on(value) if made not in started]
    known = set(assignment.modules)
    found = {tensor.name: homes[tensor.name] for tensor in graph.tensors}
    return {
        name: home if home in known else assignment.tree.caller(home)
        for name, home in found.items()
        if home is not None
    }


@dataclass(frozen=True, slots=True)
class _Kept:
    """The format of an initializer.

    Attributes:
        format: For a weight: float32, float16, int8, int4 and so on, signed or not. None for initializers that are not
            weights: a shape, an index, a scalar, and scales and zero points.
        elements: Number of values.
        bytes: Its size in bytes.
        saved: Bytes saved compared with float32; for a scale or zero point its own size, negative.
    """

    format: str | None
    elements: int
    bytes: int
    saved: int = 0


def _kept_weights(graph: Graph) -> dict[str, _Kept]:
    """Return the format of each initializer of a graph, by its name."""
    names = {tensor.name for tensor in graph.tensors}
    quantized: dict[str, Node] = {}
    scales = {
        name
        for name in names
        for suffix in _SUFFIXES
        if name.endswith(suffix) and f"{name.removesuffix(suffix)}_quantized" in names
    }
    for node in graph.nodes:
        for one in quantized_inputs(node.op_type):
            if one.weight is not None and one.weight < len(node.inputs):
                quantized.setdefault(node.inputs[one.weight], node)
            places = (one.scale, one.zero, *one.indexes)
            scales.update(node.inputs[place] for place in places if place is not None and place < len(node.inputs))
    return {tensor.name: _kept(tensor, quantized.get(tensor.name), tensor.name in scales) for tensor in graph.tensors}


def _kept(tensor: Initializer, user: Node | None, scales: bool) -> _Kept:
    elements = _elements_of(tensor.shape)
    size = (elements * bits_of(tensor.dtype) + 7) // 8
    if scales:
        return _Kept(None, elements, size, -size)
    if tensor.dtype.startswith(_FLOATS):
        if elements <= 1:
            return _Kept(None, elements, size)
        return _Kept(tensor.dtype, elements, size, elements * _FULL - size)
    if user is None or not tensor.dtype.removeprefix("u").startswith("int"):
        return _Kept(None, elements, size)
    if user.op_type == "Gather" and bits_of(tensor.dtype) > 8:
        return _Kept(None, elements, size)
    bits = bits_of(tensor.dtype)
    if user.op_type in PACKED:
        packed = number_of_bits(user.op_type, user.integers)
        if user.op_type == "GatherBlockQuantized":
            elements = elements * bits // packed
        else:
            elements = _elements_of((user.integers.get("K", 0), user.integers.get("N", 0)))
        bits = packed
    return _Kept(f"int{bits}", elements, size, elements * _FULL - size)


def _elements_of(shape: Sequence[int]) -> int:
    """Return the number of elements of a tensor; 0 for an invalid shape."""
    if any(not 0 < size < _MOST_ELEMENTS for size in shape):
        return 0
    count = math.prod(shape)
    return count if count < _MOST_ELEMENTS else 0
