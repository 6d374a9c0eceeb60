"""Sizes of a model's inputs that match the fixed sizes in a graph.

It is not known beforehand which size determines a dimension. So the inputs are made twice, with a size and with the
size plus one. A dimension that differs depends on that size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from optimum_htp.errors import OptimumHTPError
from optimum_htp.onnxfile import TensorSpec

__all__ = ["InputSizeError", "MOST", "fitting_sizes", "refuse_mismatches", "with_fixed_shapes"]

MOST: Final = 1 << 30
"""Maximum number of elements of an input."""

_FAILURES: Final = (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError)

Shapes = Mapping[str, Sequence[int]]


class InputSizeError(OptimumHTPError, ValueError):
    """An input whose shape is unknown, exceeds the memory of a machine, or is not accepted by the model."""


def fitting_sizes(
    shapes: Callable[[Mapping[str, int]], Shapes], sizes: Mapping[str, int], inputs: Sequence[TensorSpec]
) -> dict[str, int]:
    """Return the sizes with which a model's inputs match a graph, as far as such sizes exist.

    Args:
        shapes: Returns the shapes of the inputs for some sizes.
        sizes: The sizes to use if the graph fixes none.
        inputs: Inputs of the graph.

    Raises:
        InputSizeError: The graph fixes a size that is too large.
    """
    for spec in inputs:
        fixed = [size for _, size in _fixed(spec)]
        if math.prod(map(float, fixed)) > MOST:
            raise InputSizeError(
                f"The input {spec.name[:60]!r} has the size {max(fixed)}, which is too large to generate."
            )
    wanted = {(spec.name, axis): size for spec in inputs for axis, size in _fixed(spec)}
    before = _measured(shapes(sizes), wanted)
    if all(wanted[place] == size for place, size in before.items()):
        return dict(sizes)
    grown: dict[tuple[str, int], dict[str, int]] = {place: {} for place in before}
    for name, size in sizes.items():
        try:
            after = _measured(shapes({**sizes, name: size + 1}), wanted)
        except _FAILURES:  # The model does not accept another number for this size.
            continue
        for place in before.keys() & after.keys():
            if after[place] != before[place]:
                grown[place][name] = after[place] - before[place]
    more: dict[str, int] = {}
    while (found := next(_solved(wanted, before, grown, more), None)) is not None:
        more |= found
    return {name: max(0, size + more.get(name, 0)) for name, size in sizes.items()}


def _solved(
    wanted: Mapping[tuple[str, int], int],
    before: Mapping[tuple[str, int], int],
    grown: Mapping[tuple[str, int], Mapping[str, int]],
    more: Mapping[str, int],
) -> Iterator[dict[str, int]]:
    """Yield by how much to increase a size, for each dimension in which only that size is open."""
    for place, by_name in grown.items():
        unknown = by_name.keys() - more.keys()
        if len(unknown) == 1:
            (name,) = unknown
            known = sum(by_name[other] * more[other] for other in by_name.keys() & more.keys())
            yield {name: (wanted[place] - before[place] - known) // by_name[name]}


def _fixed(spec: TensorSpec) -> Iterator[tuple[int, int]]:
    """Yield the dimensions of an input that are numbers, with these numbers."""
    return ((axis, size) for axis, size in enumerate(spec.shape or ()) if isinstance(size, int))


def _measured(shapes: Shapes, places: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int]:
    return {(name, axis): shapes[name][axis] for name, axis in places if axis < len(shapes.get(name, ()))}


def with_fixed_shapes(made: Mapping[str, Any], inputs: Iterable[TensorSpec]) -> dict[str, Any]:
    """Return tensors by name. Images and sounds get the graph's size even if the config has another one."""
    import torch

    fitted = dict(made)
    for spec in inputs:
        tensor = made.get(spec.name)
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            continue
        shape = list(tensor.shape)
        if len(shape) != len(spec.shape or ()):
            continue
        for axis, size in _fixed(spec):
            shape[axis] = size
        if shape != list(tensor.shape):
            fitted[spec.name] = torch.rand(shape, dtype=tensor.dtype)
    return fitted


def refuse_mismatches(shapes: Shapes, inputs: Iterable[TensorSpec]) -> None:
    """Reject inputs that a graph does not accept.

    Raises:
        InputSizeError: The graph fixes another size.
    """
    for spec in inputs:
        for axis, size in _fixed(spec):
            shape = list(shapes.get(spec.name, ()))
            if axis < len(shape) and shape[axis] != size:
                raise InputSizeError(
                    f"The input {spec.name[:60]!r} has the size {size} in dimension {axis}, but the model generates "
                    f"{shape[axis]}. Pass --inputs."
                )
