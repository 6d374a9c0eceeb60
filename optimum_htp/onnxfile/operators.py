"""The meaning of operators' inputs: weights, and the parameters of quantized weights.

Sources: https://onnx.ai/onnx/operators/ and
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

__all__ = [
    "CONVOLUTIONS",
    "PACKED",
    "PASSED_THROUGH",
    "PRODUCTS",
    "RANDOM",
    "Quantized",
    "Role",
    "WITH_INTEGERS",
    "is_quantization",
    "is_scale_or_zero_point",
    "is_setting",
    "number_of_bits",
    "quantized_inputs",
    "role_of",
]


class Role(Enum):
    """The meaning of an input for a layer."""

    WEIGHT = "weight"
    BIAS = "bias"
    MEAN = "mean"
    VARIANCE = "variance"


@dataclass(frozen=True, slots=True)
class Quantized:
    """The inputs of an operator for one quantized tensor.

    Attributes:
        weight: The integers; None for activations or results, which are not in a file.
        scale: Their scale; None if only its name identifies it.
        zero: Their zero point; None if only its name identifies it.
        indexes: Other inputs that determine the arrangement of the integers.
    """

    weight: int | None
    scale: int | None
    zero: int | None
    indexes: tuple[int, ...] = ()


PASSED_THROUGH: Final = frozenset(
    {"Identity", "Transpose", "Cast", "Reshape", "Unsqueeze", "Squeeze", "DequantizeLinear"}
)
"""Operators that a weight passes through, as their first input, to the node that uses it."""

CONVOLUTIONS: Final = frozenset({"Conv", "ConvTranspose", "FusedConv"})

PRODUCTS: Final = CONVOLUTIONS | {
    "MatMul",
    "FusedMatMul",
    "Gemm",
    "MatMulInteger",
    "ConvInteger",
    "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat",
    "MatMulBnb4",
    "MatMulNBits",
    "QLinearMatMul",
    "QLinearConv",
    "QGemm",
    "QAttention",
}
"""Operators that multiply by a matrix or a kernel, including quantized ones."""

PACKED: Final = frozenset({"MatMulNBits", "GatherBlockQuantized", "MatMulBnb4"})
"""Operators with attributes for the number of values in a byte."""

RANDOM: Final = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
"""Operators whose results differ between runs."""

WITH_INTEGERS: Final = PACKED | {"Gemm", "QGemm", "FusedMatMul", "DequantizeLinear"}
"""Operators with attributes for the arrangement of a weight."""

_QUANTIZED: Final[Mapping[str, tuple[Quantized, ...]]] = {
    "QuantizeLinear": (Quantized(None, 1, 2),),
    "DequantizeLinear": (Quantized(0, 1, 2),),
    "MatMulInteger": (Quantized(0, None, 2), Quantized(1, None, 3)),
    "ConvInteger": (Quantized(1, None, 3),),
    "Gather": (Quantized(0, None, None),),  # Its result is dequantized.
    "QLinearMatMul": (Quantized(0, 1, 2), Quantized(3, 4, 5), Quantized(None, 6, 7)),
    "QLinearConv": (Quantized(0, 1, 2), Quantized(3, 4, 5), Quantized(None, 6, 7)),
    "QGemm": (Quantized(3, 4, 5), Quantized(None, 1, 2), Quantized(None, 7, 8)),
    "QAttention": (Quantized(1, 4, 7), Quantized(None, 3, 6)),
    "DynamicQuantizeMatMul": (Quantized(1, 2, 3),),
    "MatMulIntegerToFloat": (Quantized(1, 3, 5), Quantized(None, 2, 4)),
    "DynamicQuantizeLSTM": (Quantized(None, 8, 9), Quantized(None, 10, 11)),
    "MatMulNBits": (Quantized(1, 2, 3, (4,)),),
    "MatMulBnb4": (Quantized(1, 2, None),),
    "GatherBlockQuantized": (Quantized(0, 2, 3),),
}

_SETTINGS: Final[Mapping[str, tuple[int, ...]]] = {"Resize": (1, 2), "Upsample": (1,)}
"""Scales, and regions of interest."""

_LAYER: Final = {1: Role.WEIGHT, 2: Role.BIAS}
_MATRIX: Final = {0: Role.WEIGHT, 1: Role.WEIGHT}
_SECOND: Final = {1: Role.WEIGHT}
_ROLES: Final[Mapping[str, Mapping[int, Role]]] = {
    "LayerNormalization": _LAYER,
    "GroupNormalization": _LAYER,
    "SkipLayerNormalization": {2: Role.WEIGHT, 3: Role.BIAS},
    "SimplifiedLayerNormalization": _SECOND,
    "SkipSimplifiedLayerNormalization": {2: Role.WEIGHT},
    "BatchNormalization": {**_LAYER, 3: Role.MEAN, 4: Role.VARIANCE},
    "Conv": _LAYER,
    "ConvTranspose": _LAYER,
    "FusedConv": _LAYER,
    "Gemm": _LAYER,
    "MatMul": _MATRIX,
    "FusedMatMul": _MATRIX,
    "Mul": _MATRIX,
    "Add": {0: Role.BIAS, 1: Role.BIAS},
    "BiasGelu": {1: Role.BIAS},
    "FastGelu": {1: Role.BIAS},
    "Gather": {0: Role.WEIGHT},
    "GatherBlockQuantized": {0: Role.WEIGHT},
    "MatMulInteger": _MATRIX,
    "ConvInteger": _SECOND,
    "DynamicQuantizeMatMul": _SECOND,
    "MatMulIntegerToFloat": _SECOND,
    "MatMulBnb4": _SECOND,
    "MatMulNBits": {1: Role.WEIGHT, 5: Role.BIAS},
    "QLinearMatMul": {3: Role.WEIGHT},
    "QLinearConv": {3: Role.WEIGHT, 8: Role.BIAS},
    "QGemm": {3: Role.WEIGHT, 6: Role.BIAS},
}


def role_of(operator: str, position: int) -> Role | None:
    """Return the meaning of an operator's input for a layer; None if it is unknown."""
    return _ROLES.get(operator, {}).get(position)


def is_setting(operator: str, position: int) -> bool:
    """Whether an input of floats is a setting of an operator, not a value that it computes with."""
    return position in _SETTINGS.get(operator, ())


def quantized_inputs(operator: str) -> tuple[Quantized, ...]:
    """Return the quantized inputs of an operator; empty if it has none."""
    return _QUANTIZED.get(operator, ())


def is_scale_or_zero_point(operator: str, position: int) -> bool:
    """Whether an operator has a scale or a zero point as this input."""
    return any(position in (one.scale, one.zero) for one in quantized_inputs(operator))


def is_quantization(operator: str) -> bool:
    """Whether an operator is used in quantized models only."""
    return operator == "DynamicQuantizeLinear" or (operator in _QUANTIZED and operator != "Gather")


def number_of_bits(operator: str, integers: Mapping[str, int]) -> int:
    """Return the number of bits per value of a weight of an operator in `PACKED`, with the node's attributes."""
    return 4 if operator == "MatMulBnb4" else integers.get("bits") or 4
