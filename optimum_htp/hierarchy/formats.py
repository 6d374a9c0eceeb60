"""How the weights of a graph are kept: as floats of some size, or quantized, and what that saves.

An initializer's element type alone does not tell: four-bit weights are packed into bytes, and scales and zero points
belong to what they scale. So operators are asked, by the place of an input: those of ONNX
(https://onnx.ai/onnx/operators/) and of ONNX Runtime
(https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from optimum_htp.onnxfile import Graph, Initializer, Node
from optimum_htp.onnxfile.tensors import bits_of

__all__ = ["Kept", "elements_of", "kept_weights"]

_FULL: Final = 4  # bytes of a float32, against which is saved
_MOST: Final = 1 << 63  # elements of a tensor

# For each operator the input that may be a quantized weight, and those that say how it is scaled.
_QUANTIZED: Final[Mapping[str, tuple[int, tuple[int, ...]]]] = {
    "DequantizeLinear": (0, (1, 2)),
    "QuantizeLinear": (-1, (1, 2)),
    "MatMulInteger": (1, (3,)),
    "ConvInteger": (1, (3,)),
    "QLinearMatMul": (3, (1, 2, 4, 5, 6, 7)),
    "QLinearConv": (3, (1, 2, 4, 5, 6, 7)),
    "QGemm": (3, (1, 2, 4, 5, 7, 8)),
    "QAttention": (1, (3, 4, 6, 7)),
    "DynamicQuantizeMatMul": (1, (2, 3)),
    "MatMulIntegerToFloat": (1, (2, 3, 4, 5)),
    "MatMulNBits": (1, (2, 3, 4)),
    "GatherBlockQuantized": (0, (2, 3)),
    "Gather": (0, ()),
}
_FLOATS: Final = ("float", "bfloat")
_SUFFIXES: Final = ("_scale", "_zero_point")  # of the names that ONNX Runtime's quantizer gives, beside `_quantized`


@dataclass(frozen=True, slots=True)
class Kept:
    """How an initializer is kept.

    Attributes:
        format: Of a weight: float32, float16, int8, int4 and so on, signed or not; None for what is no weight: a
            shape, an index, a scalar, and the scales and zero points of others.
        elements: Numbers that it stands for.
        bytes: What it takes.
        saved: Bytes that it takes less than float32 would; of a scale or zero point what it takes itself, below 0.
    """

    format: str | None
    elements: int
    bytes: int
    saved: int = 0


def kept_weights(graph: Graph) -> dict[str, Kept]:
    """Return how each initializer of a graph is kept, by its name."""
    names = {tensor.name for tensor in graph.tensors}
    quantized: dict[str, Node] = {}
    scales = {
        name
        for name in names
        for suffix in _SUFFIXES
        if name.endswith(suffix) and f"{name.removesuffix(suffix)}_quantized" in names
    }
    for node in graph.nodes:
        place, others = _QUANTIZED.get(node.op_type, (-1, ()))
        if 0 <= place < len(node.inputs):
            quantized.setdefault(node.inputs[place], node)
        scales.update(node.inputs[other] for other in others if other < len(node.inputs))
    return {tensor.name: _kept(tensor, quantized.get(tensor.name), tensor.name in scales) for tensor in graph.tensors}


def _kept(tensor: Initializer, user: Node | None, scales: bool) -> Kept:
    elements = elements_of(tensor.shape)
    size = (elements * bits_of(tensor.dtype) + 7) // 8
    if scales:
        return Kept(None, elements, size, -size)
    if tensor.dtype.startswith(_FLOATS):
        return (
            Kept(tensor.dtype, elements, size, elements * _FULL - size) if elements > 1 else Kept(None, elements, size)
        )
    if user is None or not tensor.dtype.removeprefix("u").startswith("int"):
        return Kept(None, elements, size)
    if user.op_type == "Gather" and bits_of(tensor.dtype) > 8:
        return Kept(None, elements, size)
    bits = user.integers.get("bits", 0) if user.op_type in ("MatMulNBits", "GatherBlockQuantized") else 0
    if user.op_type == "MatMulNBits":
        bits = bits or 4
        elements = elements_of((user.integers.get("K", 0), user.integers.get("N", 0)))
    elif bits and bits < bits_of(tensor.dtype):  # packed into bytes
        elements = elements * bits_of(tensor.dtype) // bits
    return Kept(f"int{bits or bits_of(tensor.dtype)}", elements, size, elements * _FULL - size)


def elements_of(shape: Sequence[int]) -> int:
    """Return the number of elements of a tensor; 0 for a shape that none can have."""
    if any(not 0 < size < _MOST for size in shape):
        return 0
    count = math.prod(shape)
    return count if count < _MOST else 0
