"""Integers that represent a weight: their scale and their zero point.

Most operators have them as inputs. For integer operators, the names of ONNX Runtime's quantizer determine them.
Sources: https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html and
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulNBits
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final

from optimum_htp.onnxfile import Graph, Node
from optimum_htp.onnxfile.contents import StoredTensor
from optimum_htp.onnxfile.operators import PACKED, number_of_bits, quantized_inputs

__all__ = ["QuantizedWeight", "parameter_names", "quantized_weights"]

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
        node: The node that uses it.
        is_arranged: Whether another input of the node determines the order of the integers, which is not decoded.
    """

    tensor: StoredTensor
    scale: StoredTensor
    zero: StoredTensor | None
    node: Node
    is_arranged: bool = False

    @property
    def bits(self) -> int:
        """Number of bits per number."""
        if self.node.op_type not in PACKED:
            return int(self.tensor.dtype.removeprefix("u").removeprefix("int"))
        return number_of_bits(self.node.op_type, self.node.integers)

    @property
    def unreadable(self) -> str | None:
        """Why the integers cannot be decoded; None if they can."""
        if self.is_arranged:
            return f"{self.node.op_type} with an index of groups cannot be decoded"
        if self.node.op_type in PACKED and self.bits not in (4, 8):
            return f"{self.bits} bits of {self.node.op_type} cannot be decoded"
        if self.is_coded and self.node.integers.get("quant_type", 1) not in (0, 1):
            return f"a type of {self.node.op_type} that is neither FP4 nor NF4 cannot be decoded"
        return None

    @property
    def is_coded(self) -> bool:
        """Whether the numbers are indices into a table."""
        return self.node.op_type == "MatMulBnb4"

    @property
    def size(self) -> int:
        """Number of integers."""
        if self.node.op_type in ("MatMulNBits", "MatMulBnb4"):
            return max(0, self.node.integers.get("K", 0) * self.node.integers.get("N", 0))
        return self.tensor.size * 8 // self.bits if self.packed else self.tensor.size

    @property
    def axis(self) -> int:
        """The axis of per-channel scales."""
        if self.node.op_type == "DequantizeLinear":
            return self.node.integers.get("axis", 1)
        if self.node.op_type == "QGemm":
            return 0 if self.node.integers.get("transB") else 1
        return 0 if "Conv" in self.node.op_type else -1

    @property
    def packed(self) -> bool:
        """Whether a byte contains several numbers, or the numbers are in blocks."""
        return self.node.op_type in PACKED and self.tensor.dtype == "uint8"

    @property
    def range(self) -> tuple[int, int]:
        """The smallest and the largest number of its type."""
        return (0, (1 << self.bits) - 1) if self.packed else _RANGES[self.tensor.dtype]

    def numbers(self, size: int) -> tuple[Any, Any, Any]:
        """Return the integers, and scales and zero points that broadcast to them.

        `size` is the number of elements of the weight that they may represent.

        Raises:
            ValueError: They cannot represent that many.
        """
        if self.node.op_type == "MatMulNBits":
            return self._blocks(size)
        if self.node.op_type == "GatherBlockQuantized":
            return self._rows(size)
        if self.tensor.size != size:
            raise ValueError("of another size")
        numbers = _unpacked(self.tensor).reshape(self.tensor.shape)
        scale = self.scale.array()
        zero = _unpacked(self.zero).reshape(self.zero.shape) if self.zero is not None else scale * 0
        return numbers, _spread(scale, numbers.shape, self.axis), _spread(zero, numbers.shape, self.axis)

    def codes(self, size: int) -> tuple[Any, Any, int]:
        """Return the indices into the table, the largest value of each block, and the block's length.

        Raises:
            ValueError: They cannot represent that many values.
        """
        import numpy as np

        block = self.node.integers.get("block_size", 0)
        shape = self.node.integers.get("N", 0), self.node.integers.get("K", 0)
        if prod(shape) != size or block <= 0 or self.scale.size != -(-size // block):
            raise ValueError("of another size")
        content = self.tensor.array().reshape(-1)
        numbers = np.stack([content >> 4, content & 15], -1).reshape(-1)[:size]
        return numbers, self.scale.array().reshape(-1).astype(np.float32), block

    def groups(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return how many numbers share a scale along each axis of the integers' shape, as returned by `numbers`."""
        if self.node.op_type == "MatMulNBits":
            return 1, self.tensor.shape[-1] * 8 // self.bits
        few = _spread_shape(self.scale.shape, tuple(shape), self.axis) or (1,) * len(shape)
        return tuple(-(-size // count) if size else 1 for size, count in zip(shape, few, strict=True))

    def _blocks(self, size: int) -> tuple[Any, Any, Any]:
        """Unpack blocks [rows, blocks, bytes], the lower bits of a byte first."""
        import numpy as np

        if len(self.tensor.shape) != 3:
            raise ValueError("no blocks")
        rows, blocks, width = self.tensor.shape
        block = width * 8 // self.bits
        columns = size // rows if rows else 0
        if not rows or size % rows or -(-columns // block) != blocks:
            raise ValueError("of another size")
        numbers = _of_bytes(self.tensor.array(), self.bits).reshape(rows, blocks * block)[:, :columns]
        scale = np.repeat(self.scale.array().reshape(rows, blocks).astype(np.float32), block, 1)[:, :columns]
        zeros = self._zeros((rows, blocks))
        return numbers, scale, zeros if zeros.ndim == 0 else np.repeat(zeros, block, 1)[:, :columns]

    def _rows(self, size: int) -> tuple[Any, Any, Any]:
        """Unpack a table whose rows are quantized in blocks along one axis."""
        *outer, last = self.tensor.shape
        shape = (*outer, last * 8 // self.bits) if self.packed else self.tensor.shape
        if prod(shape) != size:
            raise ValueError("of another size")
        content = self.tensor.array()
        numbers = (_of_bytes(content, self.bits) if self.packed else _unpacked(self.tensor)).reshape(shape)
        zeros = self._zeros(self.scale.shape) if self.zero is not None or self.packed else self.scale.array() * 0
        scales = _spread(self.scale.array(), shape, self.axis)
        return numbers, scales, zeros if zeros.ndim == 0 else _spread(zeros, shape, self.axis)

    def _zeros(self, shape: tuple[int, ...]) -> Any:
        """Return the zero points of blocks; those of packed numbers are packed along the last axis."""
        import numpy as np

        if self.zero is None:
            return np.float32(1 << (self.bits - 1))
        if self.zero.dtype != "uint8":
            return _unpacked(self.zero).reshape(shape).astype(np.float32)
        unpacked = _of_bytes(self.zero.array(), self.bits).reshape(*shape[:-1], -1)
        return unpacked[..., : shape[-1]].astype(np.float32)


def quantized_weights(graph: Graph, tensors: Mapping[str, StoredTensor]) -> dict[str, QuantizedWeight]:
    """Return the quantized weights of a file, by name."""
    found: dict[str, QuantizedWeight] = {}
    for node in graph.nodes:
        for one in quantized_inputs(node.op_type):
            tensor = _input(node, one.weight, tensors)
            if tensor is None or tensor.dtype not in _RANGES or tensor.name in found:
                continue
            name = tensor.name
            step = _input(node, one.scale, tensors) or tensors.get(_parameter(name, _PARAMETERS[0]))
            offset = _input(node, one.zero, tensors) or tensors.get(_parameter(name, _PARAMETERS[1]))
            if step is not None:
                arranged = any(_input(node, position, tensors) is not None for position in one.indexes)
                found[name] = QuantizedWeight(tensor, step, offset, node, arranged)
    return found


def parameter_names(graph: Graph, tensors: Mapping[str, StoredTensor]) -> set[str]:
    """Return the names of all scales and zero points of a file, including those of activations.

    The end of a name is not enough, because models have parameters such as `logit_scale`. It must belong to integers
    of the file.
    """
    names = {
        node.inputs[position]
        for node in graph.nodes
        for one in quantized_inputs(node.op_type)
        for position in (one.scale, one.zero)
        if position is not None and position < len(node.inputs)
    }
    for weight in quantized_weights(graph, tensors).values():
        names.add(weight.scale.name)
        if weight.zero is not None:
            names.add(weight.zero.name)
    integers = {name for name, tensor in tensors.items() if tensor.dtype in _RANGES}
    for name in tensors:  # No node uses the parameters of integer operators.
        base = next((name.removesuffix(suffix) for suffix in _PARAMETERS if name.endswith(suffix)), None)
        if base is not None and not integers.isdisjoint((base, f"{base}{_SUFFIX}")):
            names.add(name)
    return names


def _input(node: Node, position: int | None, tensors: Mapping[str, StoredTensor]) -> StoredTensor | None:
    return tensors.get(node.inputs[position]) if position is not None and position < len(node.inputs) else None


def _parameter(name: str, suffix: str) -> str:
    return name.removesuffix(_SUFFIX) + suffix


def _unpacked(tensor: StoredTensor) -> Any:
    import numpy as np

    array = tensor.array()
    if tensor.dtype not in ("int4", "uint4"):
        return array.astype(np.int64) if array.dtype.kind in "iu" else array
    numbers = _of_bytes(array, 4)[: tensor.size]
    return np.where(numbers > 7, numbers - 16, numbers) if tensor.dtype == "int4" else numbers


def _of_bytes(array: Any, bits: int) -> Any:
    """Return the numbers in bytes, the lower bits first."""
    import numpy as np

    if bits == 8:
        return array.reshape(-1).astype(np.int16)
    return np.stack([array & 15, array >> 4], -1).reshape(-1).astype(np.int16)


def _spread(parameters: Any, shape: tuple[int, ...], along: int) -> Any:
    """Return scales in a shape that broadcasts: per tensor, per axis, or per block along an axis."""
    import numpy as np

    aligned = _spread_shape(parameters.shape, shape, along)
    parameters = parameters.reshape(aligned)
    for axis, (few, many) in enumerate(zip(aligned, shape, strict=False)):
        if few not in (1, many):
            parameters = np.repeat(parameters, -(-many // few), axis).take(range(many), axis)
    return parameters


def _spread_shape(own: tuple[int, ...], shape: tuple[int, ...], along: int) -> tuple[int, ...]:
    """Return the shape of scales with an axis for each axis of the numbers; of a single number if per tensor."""
    if prod(own) == 1:
        return ()
    if len(own) == len(shape):
        return own
    if not -len(shape) <= along < len(shape) or shape[along] != prod(own):
        raise ValueError("its scale has another size")
    broadcast = [1] * len(shape)
    broadcast[along] = prod(own)
    return tuple(broadcast)
