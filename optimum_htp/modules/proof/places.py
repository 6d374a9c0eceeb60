"""Where a tensor of a file is used: by which operator, as which of its inputs, and in which module.

That says which tensor of the commit it has to be: the parameter that it is named after, and the one of that kind that
the module owns in which it is used.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from optimum_htp.hierarchy.tags import MODULE
from optimum_htp.modules.proof.commit_tensors import CommitTensors
from optimum_htp.onnxfile import Graph

__all__ = ["PASSED_THROUGH", "Use", "expectations", "is_unknown_place", "plain_name", "uses_of"]

PASSED_THROUGH: Final = frozenset(
    {"Identity", "Transpose", "Cast", "Reshape", "Unsqueeze", "Squeeze", "DequantizeLinear"}
)
"""Operators that a weight passes through, as their first input, on its way to the node that uses it."""

# Which parameter of a module an operator takes as which input. Of others the number of elements tells.
_WEIGHT: Final = ("weight", "gamma", "g")
_BIAS: Final = ("bias", "beta", "b")
_ROLES: Final[Mapping[tuple[str, int], tuple[str, ...]]] = {
    **{
        (operator, position): role
        for operator in ("LayerNormalization", "Conv", "ConvTranspose", "Gemm")
        for position, role in ((1, _WEIGHT), (2, _BIAS))
    },
    ("BatchNormalization", 1): _WEIGHT,
    ("BatchNormalization", 2): _BIAS,
    ("BatchNormalization", 3): ("running_mean",),
    ("BatchNormalization", 4): ("running_var",),
    **{(operator, position): _WEIGHT for operator in ("MatMul", "Mul") for position in (0, 1)},
    **{("Add", position): _BIAS for position in (0, 1)},
    ("Gather", 0): _WEIGHT,
    ("MatMulInteger", 1): _WEIGHT,
    ("ConvInteger", 1): _WEIGHT,
    ("DynamicQuantizeMatMul", 1): _WEIGHT,
    ("MatMulNBits", 1): _WEIGHT,
    ("QLinearMatMul", 3): _WEIGHT,
    ("QLinearConv", 3): _WEIGHT,
}
_OF_LAYERS: Final = frozenset({("LayerNormalization", 1), ("Conv", 1), ("Gemm", 1), ("MatMul", 1), ("Gather", 0)})
_QUANTIZERS_SUFFIX: Final = re.compile(r"_(?:quantized|Q\dG?\w*|DequantizeLinear|fp16|merged.*|transposed)+$")


@dataclass(frozen=True, slots=True)
class Use:
    """A use of a tensor.

    Attributes:
        node: The node's place in the graph.
        op_type: Its operator.
        position: Which of its inputs.
        module: Where it came from; None where the file has no tags.
        passed: Operators that the tensor went through before.
    """

    node: int
    op_type: str
    position: int
    module: str | None
    passed: tuple[str, ...] = ()


def uses_of(graph: Graph, *, tagged: bool) -> dict[str, list[Use]]:
    """Return the uses of each value that tensors go into, those behind `PASSED_THROUGH` too."""
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
                module = node.metadata.get(MODULE) if tagged else None  # quantizers leave their nodes without tags
                uses.append(Use(index, node.op_type, position, module, passed))
        return uses

    for value in users:
        found[value] = follow(value, ())
    return found


def plain_name(name: str) -> str:
    """Return a tensor's name without what quantizers put behind it."""
    return _QUANTIZERS_SUFFIX.sub("", name)


def expectations(name: str, size: int, uses: Sequence[Use], tensors: CommitTensors) -> list[list[str]]:
    """Return what a tensor has to be: for its name and for each of its uses the tensors that it may be there.

    Args:
        name: Of the tensor.
        size: Its number of elements.
        uses: Of it.
        tensors: Of the commit.
    """
    groups: list[list[str]] = []
    named = [key for key in tensors.spelled(plain_name(name)) if tensors[key].size == size]
    if named:
        groups.append(named)
    for use in uses if size > 1 else ():  # any module has numbers beside its parameters
        group = _of_use(use, size, tensors)
        if group and group not in groups:
            groups.append(group)
    return groups


def is_unknown_place(use: Use, tensors: CommitTensors) -> bool:
    """Whether a weight is used in a layer that the commit has no tensors of; the model may call it otherwise.

    Layers are numbered. A head that shares the table of the embeddings is not, and has no tensor of its own.
    """
    if use.module is None or (use.op_type, use.position) not in _OF_LAYERS:
        return False
    return any(part.isdecimal() for part in use.module.split(".")) and not tensors.owned(use.module)


def _of_use(use: Use, size: int, tensors: CommitTensors) -> list[str]:
    if use.module is None:
        return []
    owned = tensors.owned(use.module)
    for leaf in _ROLES.get((use.op_type, use.position), ()):
        if leaf in owned and tensors[owned[leaf]].size == size:
            return [owned[leaf]]
    return [key for key in owned.values() if tensors[key].size == size]
