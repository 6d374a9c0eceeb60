"""Integers that stand for a weight: what a step of them is, and which number is zero.

Operators say it in their inputs; those for integers alone do not, and there ONNX Runtime's quantizer says it in names.
Sources: https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html and
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulNBits
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final

from optimum_htp.onnxfile import Graph
from optimum_htp.onnxfile.contents import StoredTensor

__all__ = ["QuantizedWeight", "is_parameter_input", "parameter_names", "quantized_weights"]

# For each operator: which input is a quantized weight, and which are its scale and zero point. -1 is none: of
# activations and results, only the scale and the zero point are tensors of the file.
_INPUTS: Final[Mapping[str, tuple[tuple[int, int | None, int], ...]]] = {
    "DequantizeLinear": ((0, 1, 2),),
    "DynamicQuantizeMatMul": ((1, 2, 3),),
    "QLinearMatMul": ((0, 1, 2), (3, 4, 5), (-1, 6, 7)),
    "QLinearConv": ((0, 1, 2), (3, 4, 5), (-1, 6, 7)),
    "MatMulIntegerToFloat": ((1, 3, 5), (-1, 2, 4)),
    "QGemm": ((3, 4, 5), (-1, 1, 2), (-1, 7, 8)),
    "QAttention": ((-1, 3, 6), (-1, 4, 7)),
    "DynamicQuantizeLSTM": ((-1, 8, 9), (-1, 10, 11)),
    "MatMulNBits": ((1, 2, 3),),
    "MatMulInteger": ((1, None, 3),),
    "ConvInteger": ((1, None, 3),),
    "Gather": ((0, None, -1),),  # whose result is de-quantized
    "QuantizeLinear": ((-1, 1, 2),),
}
_RANGES: Final = {
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int4": (-8, 7),
    "uint4": (0, 15),
    "int16": (-(1 << 15), (1 << 15) - 1),
    "uint16": (0, (1 << 16) - 1),
    "int32": (-(1 << 31), (1 << 31) - 1),
}
_SUFFIX: Final = "_quantized"
_PARAMETERS: Final = ("_scale", "_zero_point")


@dataclass(frozen=True)
class QuantizedWeight:
    """A tensor of integers, its scale and its zero point.

    Attributes:
        packed: Whether it is a MatMulNBits' blocks.
    """

    tensor: StoredTensor
    scale: StoredTensor
    zero: StoredTensor | None
    packed: bool

    @property
    def range(self) -> tuple[int, int]:
        """The least and the greatest number of its type; of blocks those of four bits."""
        return _RANGES["uint4" if self.packed else self.tensor.dtype]

    def numbers(self, size: int) -> tuple[Any, Any, Any]:
        """Return the integers, and what broadcasts to them: scales and zero points.

        Args:
            size: Number of elements of the weight that they may stand for.

        Raises:
            ValueError: They cannot stand for so many.
        """
        if self.packed:
            return self._blocks(size)
        if self.tensor.size != size:
            raise ValueError("of another size")
        numbers = _unpacked(self.tensor).reshape(self.tensor.shape)
        scale = self.scale.array()
        zero = _unpacked(self.zero).reshape(self.zero.shape) if self.zero is not None else scale * 0
        return numbers, _spread(scale, numbers.shape), _spread(zero, numbers.shape)

    def groups(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return how many numbers share a scale along each axis of the integers' shape, as `numbers` gives them."""
        if self.packed:
            return 1, self.tensor.shape[-1] * 2
        few = _spread_shape(self.scale.shape, tuple(shape)) or (1,) * len(shape)
        return tuple(-(-size // count) if size else 1 for size, count in zip(shape, few, strict=True))

    def _blocks(self, size: int) -> tuple[Any, Any, Any]:
        """Unpack blocks [rows, blocks, bytes] of two numbers a byte, the lower four bits first."""
        import numpy as np

        rows, blocks, width = self.tensor.shape
        columns, block = size // rows, width * 2
        if size % rows or -(-columns // block) != blocks:
            raise ValueError("of another size, or not of four bits")
        numbers = _nibbles(self.tensor.array()).reshape(rows, blocks * block)[:, :columns]
        scale = np.repeat(self.scale.array().reshape(rows, blocks).astype(np.float32), block, 1)[:, :columns]
        if self.zero is None:
            return numbers, scale, np.float32(8)
        if self.zero.dtype == "uint8":
            zeros = _nibbles(self.zero.array()).reshape(rows, -1)[:, :blocks]
        else:
            zeros = self.zero.array().reshape(rows, blocks)
        return numbers, scale, np.repeat(zeros.astype(np.float32), block, 1)[:, :columns]


def quantized_weights(graph: Graph, tensors: Mapping[str, StoredTensor]) -> dict[str, QuantizedWeight]:
    """Return the quantized weights of a file, by name."""
    found: dict[str, QuantizedWeight] = {}
    for node in graph.nodes:
        for weight, scale, zero in _INPUTS.get(node.op_type, ()):
            name = node.inputs[weight] if 0 <= weight < len(node.inputs) else ""
            tensor = tensors.get(name)
            if tensor is None or tensor.dtype not in _RANGES or name in found:
                continue
            step = _input(node.inputs, scale, tensors) or tensors.get(_parameter(name, _PARAMETERS[0]))
            offset = _input(node.inputs, zero, tensors) or tensors.get(_parameter(name, _PARAMETERS[1]))
            if step is not None:
                found[name] = QuantizedWeight(tensor, step, offset, node.op_type == "MatMulNBits")
    return found


def is_parameter_input(operator: str, position: int) -> bool:
    """Whether an operator takes a scale or a zero point as an input."""
    return any(position in places[1:] for places in _INPUTS.get(operator, ()))


def parameter_names(graph: Graph, tensors: Mapping[str, StoredTensor]) -> set[str]:
    """Return the names of all scales and zero points of a file, those of activations too.

    A name that ends like one is none by itself: models have parameters such as `logit_scale`. It has to be that of
    integers of the file.
    """
    names = {
        node.inputs[position]
        for node in graph.nodes
        for places in _INPUTS.get(node.op_type, ())
        for position in places[1:]
        if position is not None and 0 <= position < len(node.inputs)
    }
    for weight in quantized_weights(graph, tensors).values():
        names.add(weight.scale.name)
        if weight.zero is not None:
            names.add(weight.zero.name)
    integers = {name for name, tensor in tensors.items() if tensor.dtype in _RANGES}
    for name in tensors:  # those of operators for integers alone are used by nobody
        base = next((name.removesuffix(suffix) for suffix in _PARAMETERS if name.endswith(suffix)), None)
        if base is not None and not integers.isdisjoint((base, f"{base}{_SUFFIX}")):
            names.add(name)
    return names


def _input(inputs: tuple[str, ...], position: int | None, tensors: Mapping[str, StoredTensor]) -> StoredTensor | None:
    return tensors.get(inputs[position]) if position is not None and 0 <= position < len(inputs) else None


def _parameter(name: str, suffix: str) -> str:
    return name.removesuffix(_SUFFIX) + suffix


def _unpacked(tensor: StoredTensor) -> Any:
    import numpy as np

    array = tensor.array()
    if tensor.dtype not in ("int4", "uint4") or not tensor.raw:
        return array.astype(np.int64) if array.dtype.kind in "iu" else array
    numbers = _nibbles(array)[: tensor.size]
    return np.where(numbers > 7, numbers - 16, numbers) if tensor.dtype == "int4" else numbers


def _nibbles(array: Any) -> Any:
    import numpy as np

    return np.stack([array & 15, array >> 4], -1).reshape(-1).astype(np.int16)


def _spread(parameters: Any, shape: tuple[int, ...]) -> Any:
    """Return scales in a shape that broadcasts: of all, of one axis, or of blocks along one."""
    import numpy as np

    aligned = _spread_shape(parameters.shape, shape)
    parameters = parameters.reshape(aligned)
    for axis, (few, many) in enumerate(zip(aligned, shape, strict=False)):
        if few not in (1, many):
            parameters = np.repeat(parameters, -(-many // few), axis).take(range(many), axis)
    return parameters


def _spread_shape(own: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of scales with an axis for each of the numbers'; that of a single number for one of all."""
    if prod(own) == 1:
        return ()
    if len(own) == len(shape):
        return own
    axes = [axis for axis, size in enumerate(shape) if size == prod(own)]
    if not axes:
        raise ValueError("its scale is of another size")
    broadcast = [1] * len(shape)
    broadcast[axes[-1] if len(shape) == 2 else axes[0]] = prod(own)
    return tuple(broadcast)
