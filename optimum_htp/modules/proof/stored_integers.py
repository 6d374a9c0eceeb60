"""The result for integers that represent a weight: they must match the tensor of their place.

Sources of 4-bit codes: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulBnb4
and `blockwise_quant_block_bnb4.h` of ONNX Runtime.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from optimum_htp.modules.proof.commit_tensors import CommitTensors
from optimum_htp.modules.proof.expected import MOST_TRIED, Expected
from optimum_htp.modules.proof.findings import Evidence, WeightFinding
from optimum_htp.modules.proof.layouts import Order
from optimum_htp.modules.proof.quantized import QuantizedWeight
from optimum_htp.modules.proof.steps import TOO_COARSE, PlainSteps, missed_steps

__all__ = ["are_rows_of", "is_given_back", "is_told", "judged_integers", "missed_codes"]

_PARTS: Final = (3, 2)  # Tensors that a fused attention has side by side.
_AROUND: Final = 2  # Maximum steps for a number at an end of its range.
_LEAST_TOLD: Final = 64  # Bits of a row, at most 8 per number: among many rows, one is similar to any few numbers.


def judged_integers(
    weight: QuantizedWeight, expected: Expected, tensors: CommitTensors, plain: PlainSteps
) -> WeightFinding:
    """Return the finding about integers.

    Args:
        weight: The integers, with their scale and zero point.
        expected: Determines which tensors they may represent.
        tensors: Tensors of the commit.
        plain: Determines which steps are plausible for them.
    """
    tensor = weight.tensor
    finding = functools.partial(expected.finding, tensor)
    if (reason := weight.unreadable) is not None:
        return finding(Evidence.UNCHECKED, reason)
    how = f"quantized to {f'{weight.bits} bits' if weight.packed else tensor.dtype}, within half a step"
    missed: list[tuple[float, str]] = []
    groups = expected.groups(tensor, weight.size)
    named = list(dict.fromkeys(key for group in groups for key in group))
    others = [key for key in tensors.sizes.get(weight.size, ())[:MOST_TRIED] if key not in named]
    try:
        given = _Given.of(weight, plain)
    except ValueError as error:
        return finding(Evidence.UNCHECKED, f"{tensor.dtype} of {weight.node.op_type} cannot be decoded: {error}")
    for key in named if expected.is_certain(groups) else (*named, *others):
        excess = given.missed(tensors.values(key), expected.order(tensor, key))
        if excess == 0:
            return finding(Evidence.DERIVED, how, (key,), by_value=not named)
        missed.append((excess, key))
    if not named and (parts := _side_by_side(given, tensors)):
        return finding(Evidence.DERIVED, f"concatenated, {how}", parts, by_value=True)
    if not missed:
        if not expected.uses(tensor) or tensor.size <= 1:
            return finding(Evidence.CONSTANT, "a single number")
        return finding(Evidence.FOREIGN, "no tensor of the commit has this size")
    excess, key = min(missed)
    how = f"differs from {key} by up to {excess + 0.5:.3g} quantization steps (0.5 allowed)"
    if excess == TOO_COARSE:
        how = f"{key} cannot be compared: the quantization steps are too coarse"
    elif excess == float("inf"):
        how = f"differs from {key}: a quantization step is 0 or not a number"
    return finding(Evidence.FOREIGN, how, (key,))


def is_given_back(weight: QuantizedWeight, values: Any, plain: PlainSteps) -> bool:
    """Whether integers represent some values, in any order of the axes."""
    if values.size != weight.size or weight.unreadable is not None:
        return False
    try:
        return _Given.of(weight, plain).missed(values, None) == 0
    except ValueError:
        return False


def are_rows_of(weight: QuantizedWeight, table: Any, plain: PlainSteps) -> bool:
    """Whether integers represent rows of a table, in any number and order."""
    import numpy as np

    if weight.unreadable is not None or weight.is_coded:
        return False
    try:
        given = _Given.of(weight, plain)
    except ValueError:
        return False
    numbers, scale, zero = given.integers
    steps = np.broadcast_to(np.abs(scale), numbers.shape)
    width = table.shape[1]
    for axis in (axis for axis, size in enumerate(numbers.shape) if size == width):
        values, step = (np.moveaxis(array, axis, -1) for array in ((numbers - zero) * scale, steps))
        chosen: list[int] = []
        for pair in zip(values.reshape(-1, width), step.reshape(-1, width), strict=True):
            if (row := _nearest(table, *pair)) is None:
                break
            chosen.append(row)
        else:
            rows = np.moveaxis(table[chosen].reshape(values.shape), -1, axis)
            if given.missed(rows, Order.SAME) == 0:
                return True
    return False


def is_told(weight: QuantizedWeight, width: int) -> bool:
    """Whether a row of this number of integers is long enough to be distinguished from other numbers."""
    return width * min(weight.bits, 8) >= _LEAST_TOLD


def _nearest(table: Any, values: Any, step: Any) -> int | None:
    """Return the row of a table that is nearest to some values, in steps; None if all are too far away."""
    import numpy as np

    alike = np.arange(len(table))
    for column, (value, width) in enumerate(zip(values, step, strict=True)):
        alike = alike[np.abs(table[alike, column] - value) <= _AROUND * width]
        if len(alike) <= 1:
            break
    if not len(alike):
        return None
    apart = np.abs(table[alike] - values) / np.where(step == 0, 1, step)
    return int(alike[apart.max(1).argmin()])


@dataclass(frozen=True)
class _Given:
    """The numbers that integers represent.

    Attributes:
        weight: The integers.
        steps: The result of `PlainSteps.range`.
        integers: The result of `weight.numbers` or `weight.codes`.
    """

    weight: QuantizedWeight
    steps: int | None
    integers: tuple[Any, Any, Any]

    @classmethod
    def of(cls, weight: QuantizedWeight, plain: PlainSteps) -> _Given:
        """Decode integers.

        Raises:
            ValueError: The shapes of integers, scales and zero points do not match.
        """
        decoded = weight.codes(weight.size) if weight.is_coded else weight.numbers(weight.size)
        return cls(weight, plain.range(weight), decoded)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.integers[0].shape)

    def missed(self, values: Any, order: Order | None) -> float:
        if self.weight.is_coded:
            return missed_codes(self.weight, self.integers, values, order)
        return missed_steps(self.weight, self.integers, values, self.steps, order)

    def part(self, part: slice) -> _Given | None:
        """Return some of the columns; None if integers are not arranged by columns."""
        import numpy as np

        if self.weight.packed or len(self.shape) != 2:
            return None
        numbers, scale, zero = (
            np.broadcast_to(array, self.shape)[:, part] if getattr(array, "ndim", 0) else array
            for array in self.integers
        )
        return replace(self, integers=(numbers, scale, zero))


def _side_by_side(given: _Given, tensors: CommitTensors) -> tuple[str, ...]:
    """Return the tensors whose columns are side by side in integers; empty if they are not."""
    for count in _PARTS:
        if len(given.shape) != 2 or given.shape[1] % count:
            continue
        width = given.shape[1] // count
        found = tuple(_of_parts(given, width, count, tensors))
        if len(found) == count:
            return found
    return ()


def _of_parts(given: _Given, width: int, count: int, tensors: CommitTensors) -> Iterator[str]:
    for number in range(count):
        part = given.part(slice(number * width, (number + 1) * width))
        keys = tensors.sizes.get(given.shape[0] * width, ())[:MOST_TRIED]
        key = next((key for key in keys if part is not None and part.missed(tensors.values(key), None) == 0), None)
        if key is None:
            return
        yield key


_FP4: Final = (0.0, 5.208333333e-03, 0.66666667, 1.0, 0.33333333, 0.5, 0.16666667, 0.25)
_NF4: Final = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
_TABLES: Final = {0: (*_FP4, *(-value for value in _FP4)), 1: _NF4}
"""By the attribute `quant_type`."""
_SLACK: Final = (
    2e-3  # Share of the largest value of a block. A value between two of the table may be rounded to either.
)


def missed_codes(weight: QuantizedWeight, codes: tuple[Any, Any, Any], values: Any, order: Order | None) -> float:
    """Return the largest error of codes above the nearest table value, relative to a block's largest value.

    0 if they match; infinite if a block's largest value differs from the tensor's.

    `codes` is the result of `weight.codes`. `order` is the order that the axes must have; None for any.
    """
    import numpy as np

    numbers, largest, block = codes
    table = np.array(_TABLES[weight.node.integers.get("quant_type", 1)], np.float32)
    least = float("inf")
    arrays = {None: (values, values.T), Order.SAME: (values,), Order.REVERSED: (values.T,)}[order]
    for array in arrays:
        flat = np.ascontiguousarray(array).reshape(-1).astype(np.float32)
        padded = np.concatenate([flat, np.zeros(-len(flat) % block, np.float32)]).reshape(-1, block)
        own = np.abs(padded).max(1)
        if not np.allclose(own, largest, rtol=1e-2, atol=1e-30):
            continue
        scaled = padded / np.where(largest == 0, 1, largest)[:, None]
        chosen = np.concatenate([numbers, np.zeros(-len(numbers) % block, numbers.dtype)]).reshape(-1, block)
        nearest = np.abs(scaled[..., None] - table).min(-1)
        excess = np.abs(scaled - table[chosen]) - nearest - _SLACK
        least = min(least, max(0.0, float(excess.reshape(-1)[: len(flat)].max(initial=0.0))))
    return least
