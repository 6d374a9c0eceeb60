"""Checks whether integers represent a tensor of the commit: each value within half a quantization step.

A number at an end of its range may also represent a value up to one step outside. That value was rounded to a number
that the type does not have.

A step must also be one that a quantizer uses for such a tensor. Half of a very large step exceeds any weight, and
zeros would represent every tensor.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from optimum_htp.modules.proof.layouts import Order
from optimum_htp.modules.proof.quantized import QuantizedWeight
from optimum_htp.modules.proof.uses import Use
from optimum_htp.onnxfile import Graph, Node
from optimum_htp.onnxfile.contents import StoredTensor
from optimum_htp.onnxfile.operators import PASSED_THROUGH

__all__ = ["TOO_COARSE", "PlainSteps", "missed_steps"]

TOO_COARSE: Final = -1.0
_SLACK: Final = 2e-3  # Share of a step, because scales are rounded themselves.
_TINY: Final = 1.2e-38  # The smallest normal float32; quantizers replace smaller values by zeros.
# Only half of a range is used if one bit is left free, or if a scale is the next power of two.
_COARSEST: Final = 2.1
# The smallest range of values for quantizers for NPUs (ONNX Runtime's `MinimumRealRange`, for QNN).
_LEAST_RANGE: Final = 1e-4
_AS_EIGHT_BITS: Final = 255


class PlainSteps:
    """Determines which steps are plausible for a file's integers.

    Args:
        graph: Graph of the file.
        stored: Its tensors, by name.
        uses: Their uses.
    """

    def __init__(self, graph: Graph, stored: Mapping[str, StoredTensor], uses: Mapping[str, Sequence[Use]]) -> None:
        self._graph = graph
        self._stored = stored
        self._uses = uses
        self._makers = {value: node for node in graph.nodes for value in node.outputs}

    def range(self, weight: QuantizedWeight) -> int | None:
        """Return the maximum range of the values of a group in steps; None if the step is known to be right.

        A bias of 32 bits uses little of its range: its step is that of the product that it is added to.
        """
        lowest, highest = weight.range
        if weight.tensor.dtype != "int32":
            return highest - lowest
        return None if self._is_of_product(weight) else _AS_EIGHT_BITS

    def _is_of_product(self, weight: QuantizedWeight) -> bool:
        """Whether a scale is the product of the scales of the node's inputs."""
        import numpy as np

        ours = weight.scale.array().reshape(-1)
        for use in self._uses.get(weight.tensor.name, ()):
            scales = [self._scale(value) for value in self._graph.nodes[use.node].inputs[:2]]
            if use.position != 2 or len(scales) != 2 or any(scale is None for scale in scales):
                continue
            product = scales[0].array().reshape(-1) * scales[1].array().reshape(-1)
            if product.size in (1, ours.size) and bool(np.allclose(ours, product, rtol=1e-2, atol=0)):
                return True
        return False

    def _scale(self, value: str) -> Any:
        """Return the scale of a dequantized value, as a tensor of the file; None for other values."""
        node: Node | None = self._makers.get(value)
        for _ in range(8):
            if node is None or node.op_type == "DequantizeLinear" or node.op_type not in PASSED_THROUGH:
                break
            node = self._makers.get(node.inputs[0]) if node.inputs else None
        if node is None or node.op_type != "DequantizeLinear" or len(node.inputs) < 2:
            return None
        return self._stored.get(node.inputs[1])


def missed_steps(
    weight: QuantizedWeight,
    integers: tuple[Any, Any, Any],
    values: Any,
    steps: int | None,
    order: Order | None = None,
) -> float:
    """Return the largest error of integers for a tensor in steps, above the allowed half step; 0 if they match.

    It is infinite if a step is 0 and the tensor is not, and `TOO_COARSE` if steps are too coarse for a comparison.

    `integers` is the result of `weight.numbers`, `steps` the maximum range of the values of a group, as returned by
    `PlainSteps.range`. `order` is the order that the axes must have; None for any.
    """
    import numpy as np

    numbers, scale, zero = integers
    lowest, highest = weight.range
    above = np.where(numbers == highest, 1.0, 0.5)
    below = np.where(numbers == lowest, 1.0, 0.5)
    # ONNX Runtime 1.20 uses this number for the step, but not in the tensor.
    if lowest < 0 and not np.any(numbers == lowest):
        below = np.where(numbers == lowest + 1, 1.5, below)
    slack = _SLACK * np.maximum(1.0, np.abs(numbers) / 64)
    signed = np.broadcast_to(scale, numbers.shape).astype(np.float32)
    given, step = (numbers.astype(np.float32) - zero) * signed, np.abs(signed)
    least, coarse = float("inf"), False
    for ours in _as_orders(values, numbers.shape, order):
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            apart = ours - given
            missed = np.where(np.abs(apart) <= _TINY, 0.0, apart / signed)  # With a step of 0, the error is infinite.
        excess = float(np.max(np.abs(missed) - np.where(missed > 0, above, below) - slack, initial=0.0))
        if excess > 0 or excess != excess:
            least = min(least, excess)
            continue
        coarsest = _coarsest(ours, weight.groups(numbers.shape), steps) if steps is not None else step
        if not np.any((step > coarsest) & (np.abs(apart) > _TINY)):
            return 0.0
        coarse = True
    return TOO_COARSE if coarse else least


def _coarsest(values: Any, groups: Sequence[int], steps: int) -> Any:
    """Return the largest step that a quantizer would use for each value.

    Args:
        values: The tensor.
        groups: Number of values that share a scale, along each axis.
        steps: Maximum range of the values of a group in steps.
    """
    import numpy as np

    largest = np.abs(values.astype(np.float32))
    for axis, (count, size) in enumerate(zip(groups, values.shape, strict=True)):
        if count >= size:
            largest = largest.max(axis, keepdims=True, initial=0.0)
        elif count > 1:
            largest = np.maximum.reduceat(largest, range(0, size, count), axis)
            largest = np.repeat(largest, count, axis).take(range(size), axis)
    return _COARSEST * np.maximum(2 * largest, _LEAST_RANGE) / steps


def _as_orders(values: Any, shape: Sequence[int], only: Order | None) -> Iterator[Any]:
    """Yield a tensor in the shape of a file's, in each order of the axes that it may have there."""
    wide = [size for size in shape if size != 1]
    if only is not None:
        yield (values if only is Order.SAME else values.reshape(wide[::-1]).transpose()).reshape(shape)
        return
    if len(wide) > 4:
        yield values.reshape(shape)
        return
    for order in itertools.permutations(range(len(wide))):
        inner = values.reshape([wide[axis] for axis in order])
        back = sorted(range(len(wide)), key=lambda axis: order[axis])
        yield inner.transpose(back).reshape(shape)
