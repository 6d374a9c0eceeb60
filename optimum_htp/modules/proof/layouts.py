"""Compares a tensor of a file with a tensor of a checkpoint in another layout or precision, block by block.

Exporters squeeze, reshape and transpose. All of these are orders of the file's axes in which its elements, in
sequence, are the checkpoint's. Each block of the checkpoint is compared with the orders that still match. When none
does, reading stops.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from optimum_htp.hubs.safetensors import TensorEntry

__all__ = ["Difference", "Layout", "Order", "cast", "compare", "decoded", "float_dtypes", "orders_of", "widened"]

float_dtypes: Final = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""Types of ONNX whose values are compared, with their names in safetensors."""

_NUMPY: Final = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_FIRST: Final = 1 << 14  # Bytes of the first block of a tensor that is one of many candidates.
_BLOCK: Final = 1 << 22  # Bytes of a block of a tensor that is expected to match.
_MOST_AXES: Final = 4  # Axes for which all orders are tried.
# Converters to float16 replace unrepresentable numbers by these: the smallest positive, and the largest
# (`convert_np_to_float16` of onnxconverter-common and of ONNX Runtime).
_SMALL: Final = 1.2e-7
_LARGE: Final = (65504.0, 10000.0)


class Order(Enum):
    """The order of the axes of a file's tensor, without sizes of 1."""

    SAME = "same"
    REVERSED = "reversed"


@dataclass(frozen=True)
class Layout:
    """How a tensor of a file matches one of a checkpoint.

    Attributes:
        same_order: Whether the elements are in the same order.
        same_type: Whether they are bit for bit those of the checkpoint.
    """

    same_order: bool
    same_type: bool

    @property
    def name(self) -> str:
        """A short description."""
        words = [*(() if self.same_type else ("cast",)), *(() if self.same_order else ("transposed",))]
        return ", ".join(words) or "equal"


@dataclass(frozen=True)
class Difference:
    """The first element that differs, in the order that matches best.

    Attributes:
        index: Its index in the flattened tensor of the checkpoint.
        ours, theirs: The values in the file and in the checkpoint.
        share: Share of the elements around it that differ.
    """

    index: int
    ours: float
    theirs: float
    share: float


def decoded(content: bytes, dtype: str) -> Any:
    """Return the values of a tensor's bytes, in their precision; bfloat16 as float32."""
    import numpy as np

    values = np.frombuffer(content, _NUMPY[dtype])
    return widened(values, dtype)


def cast(values: Any, dtype: str) -> Any:
    """Return values as ONNX stores them in a type, rounded to nearest even; bfloat16 as its bits."""
    import numpy as np

    if dtype != "bfloat16":
        with np.errstate(over="ignore"):
            return values.astype(dtype)
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def compare(
    array: Any,
    dtype: str,
    entry: TensorEntry,
    read: Callable[[int, int], bytes],
    *,
    likely: bool,
    order: Order | None = None,
) -> Layout | Difference:
    """Compare a tensor of a file with one of a checkpoint, with the same number of elements.

    The array has the form of `StoredTensor.array`. `read` returns bytes of the entry: start, length. A tensor that is
    `likely` to match is read in large blocks at once. `order` is the order that the axes must have; None for any.
    """
    width = entry.length // max(entry.size, 1)
    same_type = float_dtypes[dtype] == entry.dtype
    alive = list(_orders(array, entry, order))
    start, size = 0, (_BLOCK if likely else _FIRST) // width
    while start < entry.size:
        count = min(size, entry.size - start)
        raw = read(start * width, count * width)
        theirs = decoded(raw, entry.dtype)
        wanted = _as_stored(raw, entry.dtype) if same_type else cast(theirs, dtype)
        before = alive
        alive = [order for order in before if _equal(_flat(order, start, count), wanted, theirs, dtype)]
        if not alive:
            return _difference([_flat(order, start, count) for order in before], wanted, theirs, dtype, start)
        start, size = start + count, _BLOCK // width
    return Layout(alive[0].shape == _plain(array).shape and alive[0].strides == _plain(array).strides, same_type)


def _plain(array: Any) -> Any:
    return array.reshape([size for size in array.shape if size != 1] or [1])


def orders_of(array: Any) -> Iterator[Any]:
    """Yield an array with its axes in each order to try, without axes of size 1."""
    plain = _plain(array)
    axes = range(plain.ndim)
    orders = itertools.permutations(axes) if plain.ndim <= _MOST_AXES else iter((tuple(axes), tuple(axes)[::-1]))
    yield from (plain.transpose(order) for order in orders)


def _orders(array: Any, entry: TensorEntry, order: Order | None) -> Iterator[Any]:
    """Yield the array in the given order, or in each order, the most probable first."""
    if order is not None:
        yield _plain(array) if order is Order.SAME else _plain(array).transpose()
        return
    shape = tuple(size for size in entry.shape if size != 1)
    yield from sorted(orders_of(array), key=lambda view: view.shape != shape)


def _flat(view: Any, start: int, count: int) -> Any:
    """Return some consecutive elements of a view; copies only the rows that contain them."""
    if view.flags.c_contiguous:
        return view.reshape(-1)[start : start + count]
    row = view[0].size
    first, last = start // row, -(-(start + count) // row)
    return view[first:last].reshape(-1)[start - first * row : start - first * row + count]


def _as_stored(content: bytes, dtype: str) -> Any:
    import numpy as np

    return np.frombuffer(content, _NUMPY[dtype])


def _equal(ours: Any, wanted: Any, theirs: Any, dtype: str) -> bool:
    import numpy as np

    if np.array_equal(ours, wanted):
        return True
    return not _differing(ours, wanted, theirs, dtype).any()


def _differing(ours: Any, wanted: Any, theirs: Any, dtype: str) -> Any:
    """Return which elements differ. Two NaNs are equal, and so are values that a converter clamps."""
    import numpy as np

    if dtype == "bfloat16":
        return ours != wanted
    differing = ~((ours == wanted) | (np.isnan(ours) & np.isnan(wanted)))
    if dtype == "float16" and theirs.dtype != ours.dtype:
        small = (np.abs(theirs) < _SMALL) & (np.abs(ours) < _SMALL)
        large = (np.abs(theirs) >= _LARGE[1]) & np.isin(np.abs(ours), _LARGE) & (np.abs(theirs) >= np.abs(ours))
        differing &= ~(small | large)
    return differing


def _difference(orders: Sequence[Any], wanted: Any, theirs: Any, dtype: str, start: int) -> Difference:
    """Return the first difference in the order that has the fewest."""
    import numpy as np

    places = [np.flatnonzero(_differing(ours, wanted, theirs, dtype)) for ours in orders]
    best = min(range(len(orders)), key=lambda order: len(places[order]))
    where, ours = int(places[best][0]), orders[best]
    mine = float(widened(ours[where : where + 1], dtype)[0])
    return Difference(start + where, mine, float(theirs[where]), len(places[best]) / len(wanted))


def widened(array: Any, dtype: str) -> Any:
    """Return bfloat16 values, which numpy does not have, as float32; values of other types as they are."""
    import numpy as np

    if dtype not in ("bfloat16", "BF16"):  # The names of ONNX and safetensors.
        return array
    return (array.astype(np.uint32) << 16).view(np.float32)
