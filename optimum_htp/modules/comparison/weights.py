"""Pairs the weights of two models: by name, or with the nearest weight of the module."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from optimum_htp.errors import UnprovableWeightsError
from optimum_htp.modules.comparison.records import WeightComparison, differences
from optimum_htp.modules.proof.layouts import widened
from optimum_htp.modules.proof.quantized import QuantizedWeight, parameter_names, quantized_weights
from optimum_htp.modules.proof.uses import plain_name, uses_of
from optimum_htp.modules.prove import Evidence, prove_weights
from optimum_htp.onnxfile import Graph
from optimum_htp.onnxfile.contents import StoredTensor, stored_tensors

__all__ = ["FileWeights", "compare_weights", "compare_with_parameters", "without_derived"]

_FLOATS: Final = frozenset({"float32", "float64", "float16", "bfloat16"})
_MOST_AXES: Final = 4
_BLOCK: Final = 1 << 20  # Elements of a weight that are compared at a time.


class FileWeights:
    """The weights of a file, each with the modules that use it."""

    def __init__(self, path: Path, graph: Graph, modules: tuple[str, ...]) -> None:
        tensors = {tensor.name: tensor for tensor in stored_tensors(path)}
        self._quantized = quantized_weights(graph, tensors)
        parameters = parameter_names(graph, tensors) - self._quantized.keys()
        uses = uses_of(graph, tagged=True)
        self.tensors: dict[str, StoredTensor] = {}
        self.homes: dict[str, str] = {}
        self._by_plain_name: dict[str, str] = {}
        for name, tensor in tensors.items():
            is_weight = tensor.dtype in _FLOATS and tensor.size > 1 and name not in parameters
            if not (is_weight or name in self._quantized) or name not in uses or not uses[name]:
                continue
            self.tensors[name] = tensor
            self.homes[name] = modules[uses[name][0].node]
            self._by_plain_name.setdefault(plain_name(name), name)

    def named(self, name: str) -> str | None:
        """Return the weight with a name, also if a quantizer has added a suffix."""
        return name if name in self.tensors else self._by_plain_name.get(plain_name(name))

    def is_quantized(self, name: str) -> bool:
        """Whether a weight consists of integers."""
        return name in self._quantized

    def size(self, name: str) -> int | None:
        """Return a weight's number of elements; None if it is unknown for blocks of integers."""
        weight = self._quantized.get(name)
        return None if weight is not None and weight.packed else self.tensors[name].size

    def values(self, name: str, size: int) -> Any:
        """Return a weight as floats; integers are dequantized.

        Raises:
            ValueError: It cannot have that size.
        """
        import numpy as np

        weight: QuantizedWeight | None = self._quantized.get(name)
        if weight is not None:
            numbers, scale, zero = weight.numbers(size)
            return (numbers.astype(np.float32) - zero) * np.asarray(scale, np.float32)
        tensor = self.tensors[name]
        return widened(tensor.array(), tensor.dtype)


def compare_weights(
    one: FileWeights, other: FileWeights, atol: float, rtol: float
) -> dict[str, list[WeightComparison]]:
    """Return the comparisons of the first file's weights, by module."""
    pairs = {name: other.named(name) for name in one.tensors}
    taken = {name for name in pairs.values() if name is not None}
    free: dict[str, list[str]] = defaultdict(list)
    for name, home in other.homes.items():
        if name not in taken:
            free[home].append(name)
    found: dict[str, list[WeightComparison]] = defaultdict(list)
    for name, match in pairs.items():
        size = one.size(name)
        candidates = [match] if match is not None else free[one.homes[name]]
        results = [
            result
            for candidate in candidates
            if size is not None and (result := _compared(one, name, other, candidate, size, atol, rtol)) is not None
        ]
        best = min(results, key=lambda result: result.difference, default=WeightComparison(name, None, "missing"))
        if match is None and best.other is not None:
            free[one.homes[name]].remove(best.other)
        found[one.homes[name]].append(best)
    return found


def compare_with_parameters(
    weights: FileWeights, parameters: Mapping[str, Mapping[str, Any]], folded: set[str], atol: float, rtol: float
) -> dict[str, list[WeightComparison]]:
    """Return the comparisons of a file's weights with the parameters of PyTorch's modules, by module.

    `folded` are the modules into which another was folded.
    """
    found: dict[str, list[WeightComparison]] = defaultdict(list)
    for name, home in weights.homes.items():
        if weights.tensors[name].constant:  # PyTorch's exporter puts no parameters there.
            continue
        size = weights.size(name)
        owned = {f"{home}.{leaf}": array for leaf, array in parameters.get(home, {}).items()}
        results = []
        for other, array in owned.items():
            if (size is None or array.size == size) and array.size > 1:
                try:
                    ours = weights.values(name, array.size)
                except ValueError:
                    continue
                kind = "quantized" if weights.is_quantized(name) else "changed"
                results.append(_result(name, other, ours, array, kind, atol, rtol))
        if results:
            best = min(results, key=lambda result: result.difference)
            if best.exceeded and home in folded:
                best = WeightComparison(name, best.other, "folded", best.difference)
            found[home].append(best)
    return found


def without_derived(
    path: Path, folder: Path, compared: Mapping[str, Sequence[WeightComparison]]
) -> Mapping[str, Sequence[WeightComparison]]:
    """Return comparisons in which weights computed from the checkpoint's tensors do not exceed the tolerances."""
    if not any(weight.exceeded for weights in compared.values() for weight in weights):
        return compared
    try:
        found = prove_weights(path, folder).findings
    except UnprovableWeightsError:  # Without safetensors, only the parameters that PyTorch has loaded are known.
        return compared
    honest = {finding.name for finding in found if finding.evidence not in (Evidence.FOREIGN, Evidence.UNCHECKED)}
    return {
        module: [
            replace(weight, kind="derived", exceeded=False) if weight.exceeded and weight.name in honest else weight
            for weight in weights
        ]
        for module, weights in compared.items()
    }


def _compared(
    one: FileWeights, name: str, other: FileWeights, candidate: str, size: int, atol: float, rtol: float
) -> WeightComparison | None:
    try:
        theirs, ours = one.values(name, size), other.values(candidate, size)
    except ValueError:
        return None
    if ours.size != theirs.size:
        return None
    if other.is_quantized(candidate) and not one.is_quantized(name):
        kind = "quantized"
    elif one.tensors[name].dtype != other.tensors[candidate].dtype:
        kind = "cast"
    else:
        kind = "changed"
    return _result(name, candidate, ours, theirs, kind, atol, rtol)


def _result(name: str, other: str, ours: Any, theirs: Any, kind: str, atol: float, rtol: float) -> WeightComparison:
    """Return the comparison in the order of axes with the smallest difference."""
    least: tuple[float, bool, bool] | None = None
    for plain, order in _orders(ours, theirs.shape):
        most, exceeded = _largest(order, theirs, atol, rtol)
        if least is None or most < least[0]:
            least = most, plain, exceeded
        if most == 0:
            break
    if least is None:
        return WeightComparison(name, other, "changed", float("inf"), True)
    most, plain, exceeded = least
    if most == 0:
        return WeightComparison(name, other, "equal" if plain else "transposed")
    return WeightComparison(name, other, kind, most, exceeded)


def _largest(ours: Any, theirs: Any, atol: float, rtol: float) -> tuple[float, bool]:
    """Return the largest difference of two arrays of one shape, and whether one exceeds the tolerances.

    They are compared in blocks, because a weight may have a gigabyte.
    """
    import numpy as np

    largest, exceeded = 0.0, False
    ours, theirs = np.atleast_1d(ours), np.atleast_1d(theirs)
    rows = max(1, _BLOCK * len(theirs) // max(theirs.size, 1))
    for start in range(0, len(theirs), rows):
        one, other = ours[start : start + rows], theirs[start : start + rows]
        if one.dtype == other.dtype and np.array_equal(one, other):
            continue
        with np.errstate(invalid="ignore", over="ignore"):
            a, b = one.astype(np.float32), other.astype(np.float32)
            _, difference, more = differences(a, b, atol, rtol)
            largest = max(largest, float(np.nan_to_num(difference, nan=np.inf, posinf=np.inf).max(initial=0.0)))
            exceeded |= bool(more.any())
    return largest, exceeded


def _orders(array: Any, shape: tuple[int, ...]) -> Iterator[tuple[bool, Any]]:
    """Yield an array in a shape, in each order of its axes, matching orders first."""
    wide = [size for size in array.shape if size != 1]
    wanted = tuple(size for size in shape if size != 1)
    squeezed, axes = array.reshape(wide), tuple(range(len(wide)))
    orders = itertools.permutations(axes) if len(wide) <= _MOST_AXES else iter((axes, axes[::-1]))
    for order in sorted(orders, key=lambda order: tuple(wide[axis] for axis in order) != wanted):
        yield order == axes, squeezed.transpose(order).reshape(shape)
