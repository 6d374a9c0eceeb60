"""The independent check of tags: initializers are matched to parameters by value, which gives the owner of a node.

Names are ignored: a weight that equals a module's parameter, also transposed, belongs to that module, and so does the
node that uses it. Weights that were folded into others match nothing and are left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper

_FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE}
# A shared or renamed weight passes through these nodes before its use.
_PASSED_THROUGH = {"Identity", "Transpose", "Cast", "Reshape", "Unsqueeze", "Squeeze"}


@dataclass(frozen=True)
class Use:
    """A node that uses a parameter."""

    node: str
    op_type: str
    module: str | None
    owners: frozenset[str]

    @property
    def exact(self) -> bool:
        """Whether its tag is a module that owns the parameter."""
        return self.module in self.owners


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Return the nodes of a graph and its subgraphs."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes_of(attribute.g)
            for one in attribute.graphs:
                yield from nodes_of(one)


def _graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs_of(attribute.g)


def property_of(node: onnx.NodeProto, key: str) -> str | None:
    return next((one.value for one in node.metadata_props if one.key == key), None)


def _fingerprint(values: np.ndarray) -> tuple[Any, ...]:
    return (values.shape, values.astype(np.float32).tobytes())


def parameter_owners(model: Any) -> dict[tuple[Any, ...], set[str]]:
    """Return the modules that own each parameter or buffer, by its value, also transposed."""
    owners: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    for name, module in model.named_modules():
        for _, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if not tensor.is_floating_point() or tensor.numel() < 2:
                continue
            values = tensor.detach().cpu().float().numpy()
            owners[_fingerprint(values)].add(name)
            if values.ndim == 2:
                owners[_fingerprint(np.ascontiguousarray(values.T))].add(name)
            elif values.ndim >= 3:
                owners[_fingerprint(np.squeeze(values))].add(name)
    return owners


def weight_uses(path: Path, model: Any, key: str = "htp.module") -> list[Use]:
    """Return every use of a remaining parameter in a file, with the node's tag of the given key."""
    owners = parameter_owners(model)
    graph = onnx.load(path).graph
    owned: dict[str, set[str]] = {}
    for one in _graphs_of(graph):
        for tensor in one.initializer:
            if tensor.data_type not in _FLOATS:  # a shape of ones is not a norm that begins with ones
                continue
            values = onnx.numpy_helper.to_array(tensor)
            found = owners.get(_fingerprint(values)) or owners.get(_fingerprint(np.squeeze(values)))
            if found and values.size > 1:
                owned[tensor.name] = found
    uses = []
    for node in nodes_of(graph):
        theirs = [owned[name] for name in node.input if name in owned]
        if not theirs:
            continue
        if node.op_type in _PASSED_THROUGH:
            for name in node.output:
                owned[name] = theirs[0]
            continue
        shared = set.intersection(*theirs) or set.union(*theirs)
        uses.append(Use(node.name, node.op_type, property_of(node, key), frozenset(shared)))
    return uses
