"""Where a tensor of a file is used: by which operator, as which of its inputs, and in which module.

That says which tensor of the commit it has to be: the parameter that it is named after, and the one of that kind that
the module owns in which it is used.
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

# What the parameters of a layer are called.
_NAMES: Final = {
    Role.WEIGHT: ("weight", "gamma", "g"),
    Role.BIAS: ("bias", "beta", "b"),
    Role.MEAN: ("running_mean",),
    Role.VARIANCE: ("running_var",),
}
_EXACT: Final = frozenset({"LayerNormalization", "BatchNormalization", "Gemm", *CONVOLUTIONS})
"""Operators that take a layer's weight and bias as different inputs: one is not the other."""
_OF_LAYERS: Final = frozenset({("LayerNormalization", 1), ("Conv", 1), ("Gemm", 1), ("MatMul", 1), ("Gather", 0)})
_QUANTIZERS_SUFFIX: Final = re.compile(r"_(?:quantized|Q\dG?\w*|DequantizeLinear|fp16|merged.*|transposed)+$")

_CALL: Final = re.compile(r"_\d+$")


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


def uses_of(graph: Graph, *, tagged: bool, tensors: CommitTensors | None = None) -> dict[str, list[Use]]:
    """Return the uses of each value that tensors go into, those behind `PASSED_THROUGH` too.

    Args:
        graph: Of the file.
        tagged: Whether its nodes say their modules.
        tensors: Of a commit: a node without a tag is in the module of it that the node's name is made of.
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
                module = node.metadata.get(MODULE) if tagged else None  # quantizers leave their nodes without tags
                if module is None and tensors is not None:
                    module = _module_of_name(node.name, tensors)
                uses.append(Use(index, node.op_type, position, module, passed))
        return uses

    for value in users:
        found[value] = follow(value, ())
    return found


def _module_of_name(name: str, tensors: CommitTensors) -> str | None:
    """Return the module with tensors that exporters made a node's name of: `/encoder/layer.0/dense/MatMul`.

    None where the number at its end may be that of a second call.
    """
    module = ".".join(name.split("/")[1:-1])
    call = _CALL.sub("", module)
    return module if tensors.owned(module) and not (call != module and tensors.owned(call)) else None


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


def contradicts(use: Use, key: str) -> bool:
    """Whether a tensor of the commit is another parameter of a layer than the one that a use takes."""
    role = role_of(use.op_type, use.position)
    if role is None or use.op_type not in _EXACT:
        return False
    leaf = key.rpartition(".")[2]
    return any(leaf in names for other, names in _NAMES.items() if other is not role)


def parameter_of(use: Use, size: int, tensors: CommitTensors) -> str | None:
    """Return the tensor that a use takes, as operator and module say it; None where they do not."""
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
