"""The uses of a tensor in a file: the operator, the input index, and the module.

They determine which tensor of the commit it must be: the parameter of its name, and the parameter of that kind in the
module that uses it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from optimum_htp.hierarchy.tags import MODULE
from optimum_htp.modules.proof.commit_tensors import CommitTensors
from optimum_htp.onnxfile import Graph
from optimum_htp.onnxfile.operators import CONVOLUTIONS, PASSED_THROUGH, Role, role_of

__all__ = ["Use", "contradicts", "expectations", "is_unknown_place", "parameter_of", "plain_name", "uses_of"]

# Names of the parameters of a layer.
_NAMES: Final = {
    Role.WEIGHT: ("weight", "gamma", "g"),
    Role.BIAS: ("bias", "beta", "b"),
    Role.MEAN: ("running_mean",),
    Role.VARIANCE: ("running_var",),
}
_EXACT: Final = frozenset({"LayerNormalization", "BatchNormalization", "Gemm", *CONVOLUTIONS})
"""Operators with separate inputs for a layer's weight and bias, which cannot be confused."""
_OF_LAYERS: Final = frozenset({("LayerNormalization", 1), ("Conv", 1), ("Gemm", 1), ("MatMul", 1), ("Gather", 0)})
_QUANTIZERS_SUFFIX: Final = re.compile(r"_(?:quantized|Q\dG?\w*|DequantizeLinear|fp16|merged.*|transposed)+$")

_CALL: Final = re.compile(r"_\d+$")


@dataclass(frozen=True, slots=True)
class Use:
    """A use of a tensor.

    Attributes:
        node: Index of the node in the graph.
        op_type: Its operator.
        position: Index of the input.
        module: Its module; None if the file has no tags.
        passed: Operators that the tensor went through before.
    """

    node: int
    op_type: str
    position: int
    module: str | None
    passed: tuple[str, ...] = ()


def uses_of(graph: Graph, *, tagged: bool, tensors: CommitTensors | None = None) -> dict[str, list[Use]]:
    """Return the uses of each value that tensors go into, including those after `PASSED_THROUGH`.

    With the tensors of a commit, a node without a tag belongs to the module in the node's name.
    """
    users: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for index, node in enumerate(graph.nodes):
        for position, value in enumerate(node.inputs):
            if value:
                users[value].append((index, position))
    found: dict[str, list[Use]] = {}

    def follow(value: str, passed: tuple[str, ...]) -> list[Use]:
        uses = []
        for index, position in users.get(value, ()):
            node = graph.nodes[index]
            if node.op_type in PASSED_THROUGH and position == 0 and node.outputs and len(passed) < 8:
                uses += follow(node.outputs[0], (*passed, node.op_type))
            else:
                module = node.metadata.get(MODULE) if tagged else None  # Quantizers write nodes without tags.
                if module is None and tensors is not None:
                    module = _module_of_name(node.name, tensors)
                uses.append(Use(index, node.op_type, position, module, passed))
        return uses

    for value in users:
        found[value] = follow(value, ())
    return found


def _module_of_name(name: str, tensors: CommitTensors) -> str | None:
    """Return the module with tensors from which exporters made a node's name: `/encoder/layer.0/dense/MatMul`.

    None if the number at its end may be that of a second call.
    """
    module = ".".join(name.split("/")[1:-1])
    call = _CALL.sub("", module)
    return module if tensors.owned(module) and not (call != module and tensors.owned(call)) else None


def plain_name(name: str) -> str:
    """Return a tensor's name without the suffix of a quantizer."""
    return _QUANTIZERS_SUFFIX.sub("", name)


def expectations(name: str, size: int, uses: Sequence[Use], tensors: CommitTensors) -> list[list[str]]:
    """Return the tensors that a tensor may be, for its name and for each of its uses."""
    groups: list[list[str]] = []
    named = [key for key in tensors.spelled(plain_name(name)) if tensors[key].size == size]
    if named:
        groups.append(named)
    for use in uses if size > 1 else ():  # Every module uses single numbers in addition to its parameters.
        group = _of_use(use, size, tensors)
        if group and group not in groups:
            groups.append(group)
    return groups


def is_unknown_place(use: Use, tensors: CommitTensors) -> bool:
    """Whether a weight is used in a layer that has no tensors in the commit. The model may have another name for it.

    Layers are numbered. A head that shares the embedding table is not a layer, and has no tensor of its own.
    """
    if use.module is None or (use.op_type, use.position) not in _OF_LAYERS:
        return False
    return any(part.isdecimal() for part in use.module.split(".")) and not tensors.owned(use.module)


def contradicts(use: Use, key: str) -> bool:
    """Whether a tensor of the commit is another parameter of a layer than the one that a use takes."""
    role = role_of(use.op_type, use.position)
    if role is None or use.op_type not in _EXACT:
        return False
    leaf = key.rpartition(".")[2]
    return any(leaf in names for other, names in _NAMES.items() if other is not role)


def parameter_of(use: Use, size: int, tensors: CommitTensors) -> str | None:
    """Return the tensor that a use takes, from operator and module; None if they do not determine it."""
    role = role_of(use.op_type, use.position)
    if use.module is None or role is None:
        return None
    owned = tensors.owned(use.module)
    return next((owned[leaf] for leaf in _NAMES[role] if leaf in owned and tensors[owned[leaf]].size == size), None)


def _of_use(use: Use, size: int, tensors: CommitTensors) -> list[str]:
    if use.module is None:
        return []
    if (key := parameter_of(use, size, tensors)) is not None:
        return [key]
    same = (key for key in tensors.owned(use.module).values() if tensors[key].size == size)
    return [key for key in same if not contradicts(use, key)]
