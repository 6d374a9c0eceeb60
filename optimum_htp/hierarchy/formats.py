"""The format of a graph's weights: floats of some size, or quantized, and the bytes saved.

The element type of an initializer is not enough: four-bit weights are packed into bytes, and scales and zero points
belong to other weights. So the operator and the input index decide, for the operators of ONNX (https://onnx.ai/onnx/operators/)
and of ONNX Runtime (https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from optimum_htp.onnxfile import Graph, Initializer, Node
from optimum_htp.onnxfile.operators import PACKED, number_of_bits, quantized_inputs
from optimum_htp.onnxfile.tensors import bits_of

__all__ = ["Kept", "elements_of", "kept_weights"]

_FULL: Final = 4  # Bytes of a float32, the base for saved bytes.
_MOST: Final = 1 << 63  # Elements of a tensor.

_FLOATS: Final = ("float", "bfloat")
_SUFFIXES: Final = (
    "_scale",
    "_zero_point",
)  # Suffixes in the names of ONNX Runtime's quantizer, in addition to `_quantized`.


@dataclass(frozen=True, slots=True)
class Kept:
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


def kept_weights(graph: Graph) -> dict[str, Kept]:
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
    bits = bits_of(tensor.dtype)
    if user.op_type in PACKED:
        packed = number_of_bits(user.op_type, user.integers)
        if user.op_type == "GatherBlockQuantized":
            elements = elements * bits // packed
        else:
            elements = elements_of((user.integers.get("K", 0), user.integers.get("N", 0)))
        bits = packed
    return Kept(f"int{bits}", elements, size, elements * _FULL - size)


def elements_of(shape: Sequence[int]) -> int:
    """Return the number of elements of a tensor; 0 for an invalid shape."""
    if any(not 0 < size < _MOST for size in shape):
        return 0
    count = math.prod(shape)
    return count if count < _MOST else 0
