"""Descriptions of tensors: names of element types, inputs and outputs.

The numbers are those of TensorProto.DataType:
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from optimum_htp.onnxfile.wire import LENGTH_DELIMITED, VARINT, ByteWindow, Field, walk

__all__ = ["TensorSpec", "bits_of", "dtype_name", "integer", "integers", "tensor_spec", "as_mapped", "numpy_type"]

Dimension = int | str | None

_DTYPES: Final = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    8: "string",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    14: "complex64",
    15: "complex128",
    16: "bfloat16",
    17: "float8e4m3fn",
    18: "float8e4m3fnuz",
    19: "float8e5m2",
    20: "float8e5m2fnuz",
    21: "uint4",
    22: "int4",
    23: "float4e2m1",
    24: "float8e8m0",
    25: "uint2",
    26: "int2",
}
_BITS: Final = re.compile(r"\d+")
# Types that numpy does not have are read as unsigned integers of their size; smaller types as packed bytes.
_AS_BITS: Final = {16: "<u2", 8: "u1"}


@dataclass(frozen=True)
class TensorSpec:
    """Name, element type and shape of a graph's input or output.

    Attributes:
        dtype: Its name in numpy and ONNX; None for a value that is not a tensor (a sequence, a map).
        shape: Each dimension is a size, a symbol, or None if it is unknown; None for an unknown rank.
    """

    name: str
    shape: tuple[Dimension, ...] | None
    dtype: str | None = None

    def __str__(self) -> str:
        text = self.name if self.dtype is None else f"{self.name} {self.dtype}"
        if self.shape is None:
            return text
        return f"{text}[{', '.join('?' if size is None else str(size) for size in self.shape)}]"


def bits_of(dtype: str) -> int:
    """Return the bits per element of a type; 0 for strings, which have no fixed length."""
    if dtype == "bool":
        return 8
    match = _BITS.search(dtype)
    return int(match[0]) if match else 0


def dtype_name(number: int) -> str:
    """Return the name of an element type; a description for a type that is newer than this code."""
    return _DTYPES.get(number, f"type {number}")


def tensor_spec(window: ByteWindow, part: Field) -> TensorSpec:
    """Decode a ValueInfoProto: name = 1, type = 2 . tensor_type = 1, of which elem_type = 1, shape = 2 . dim = 1."""
    name = ""
    shape: tuple[Dimension, ...] | None = None
    dtype: str | None = None
    for inner in walk(window, part.payload, part.end):
        if inner.number == 1 and inner.wire_type == LENGTH_DELIMITED:
            name = window.text(inner)
        elif inner.number == 2 and inner.wire_type == LENGTH_DELIMITED:
            for tensor in _children(window, inner, 1):
                for field in walk(window, tensor.payload, tensor.end):
                    if field.number == 1 and field.wire_type == VARINT:
                        dtype = dtype_name(integer(window, field))
                    elif field.number == 2 and field.wire_type == LENGTH_DELIMITED:
                        shape = tuple(_dimension(window, dim) for dim in _children(window, field, 1))
    return TensorSpec(name, shape, dtype)


def integer(window: ByteWindow, part: Field) -> int:
    """Decode an int64 field."""
    value, _ = window.varint(part.payload, part.end)
    return value - (1 << 64) if value >> 63 else value  # int64: two's complement


def integers(window: ByteWindow, part: Field) -> Iterator[int]:
    """Yield the values of a repeated integer field, packed or not."""
    if part.wire_type == VARINT:
        yield integer(window, part)
    elif part.wire_type == LENGTH_DELIMITED:
        position = part.payload
        while position < part.end:
            value, position = window.varint(position, part.end)
            yield value


def _dimension(window: ByteWindow, part: Field) -> Dimension:
    for inner in walk(window, part.payload, part.end):
        if inner.number == 1 and inner.wire_type == VARINT:
            return integer(window, inner)
        if inner.number == 2 and inner.wire_type == LENGTH_DELIMITED:
            return window.text(inner) or None
    return None


def _children(window: ByteWindow, part: Field, number: int) -> Iterator[Field]:
    return (
        inner
        for inner in walk(window, part.payload, part.end)
        if inner.number == number and inner.wire_type == LENGTH_DELIMITED
    )


def numpy_type(dtype: str, bits: int) -> Any:
    """Return the numpy type with which the content of a tensor is mapped."""
    import numpy as np

    plain = {"float32", "float64", "float16", "bool", "complex64", "complex128"}
    if dtype in plain or (bits >= 8 and dtype.lstrip("u").startswith("int")):
        return np.dtype(dtype).newbyteorder("<")
    return np.dtype(_AS_BITS.get(bits, "u1"))


def as_mapped(array: Any, bits: int) -> Any:
    """Return values in the mapped form: types that numpy does not have as unsigned integers, or as packed bytes."""
    import numpy as np

    if array.dtype.kind in "biufc" and bits >= 8:
        return array
    if bits >= 8:
        return array.view(_AS_BITS[bits])
    numbers = array.reshape(-1).view("u1") & ((1 << bits) - 1)  # One value per byte.
    per_byte = 8 // bits
    padded = np.concatenate([numbers, np.zeros(-len(numbers) % per_byte, "u1")]).reshape(-1, per_byte)
    return (padded << (np.arange(per_byte, dtype="u1") * bits)).sum(1, dtype="u1")
