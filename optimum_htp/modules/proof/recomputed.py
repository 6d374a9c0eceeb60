"""Recomputes weights that an exporter or a quantizer has computed from a commit's tensors, and compares them.

These are: a batch norm folded into the convolution before it; a multiplied weight norm; rows of a table; several
tensors concatenated, or those of all experts. Integers are in the module `steps`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from optimum_htp.hierarchy.tree import EXPERTS, parent_of, shared_path
from optimum_htp.modules.proof.commit_tensors import READABLE, CommitTensors
from optimum_htp.modules.proof.layouts import Layout, cast, widened

__all__ = [
    "Fold",
    "first_experts",
    "folded_batch_norm",
    "folded_biases",
    "folds",
    "is_allowed",
    "is_close",
    "looked_up",
    "multiplied_out",
    "near",
    "put_together",
    "stacked",
    "tables_of",
    "weight_norms",
]

# The epsilon that torch, TensorFlow and papers add to a variance; checkpoints do not contain it.
_EPSILONS: Final = (1e-5, 1e-3, 1e-6, 1e-12)
_RTOL: Final = {"float64": 1e-5, "float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}
_ATOL: Final = 0.1  # Share of the relative tolerance, of the largest element.
_LARGEST_TABLE: Final = 1 << 28  # Bytes.
_PARTS: Final = (2, 3, 4)
_MOST_BIASES: Final = 8  # Biases near a batch norm that are tried.


def near(keys: Iterable[str], module: str) -> list[str]:
    """Return modules or tensors, those nearest to a module first."""
    depth = {key: shared_path(key, module).count(".") if shared_path(key, module) else -1 for key in keys}
    return sorted(depth, key=lambda key: -depth[key])


@dataclass(frozen=True)
class Fold:
    """A convolution with the following batch norm folded into it.

    Attributes:
        weight, bias: Its values.
        tensors: The tensors of the commit that they are computed from.
    """

    weight: Any
    bias: Any
    tensors: tuple[str, ...]


@dataclass(frozen=True)
class _Norm:
    """A batch norm as a factor and a summand per channel."""

    scale: Any
    mean: Any
    shift: Any
    tensors: tuple[str, ...]


def _norms(channels: int, tensors: CommitTensors, module: str) -> Iterator[_Norm]:
    """Yield the batch norms with this number of channels, those nearest to a module first."""
    import numpy as np

    modules = [
        module
        for module, leaves in tensors.modules.items()
        if {"running_mean", "running_var"} <= leaves.keys() and tensors[leaves["running_var"]].size == channels
    ]
    for norm in near(modules, module):
        leaves = tensors.modules[norm]
        values = {
            leaf: tensors.values(key).astype(np.float64)
            for leaf, key in leaves.items()
            if tensors[key].dtype in READABLE
        }
        used = tuple(key for key in leaves.values() if tensors[key].dtype in READABLE)
        for epsilon in _EPSILONS:
            scale = values.get("weight", 1.0) / np.sqrt(values["running_var"] + epsilon)
            yield _Norm(scale, values["running_mean"], values.get("bias", 0.0), used)


def folds(
    shape: Sequence[int], candidates: Iterable[str], tensors: CommitTensors, *, transposed: bool
) -> Iterator[Fold]:
    """Yield the possible combinations of a convolution and a batch norm of its channels, the most probable first.

    The shape is that of the weight in the file: output channels first, or second if the convolution is transposed.
    """
    import numpy as np

    axis = 1 if transposed else 0
    broadcast = [1] * len(shape)
    broadcast[axis] = shape[axis]
    for key in candidates:
        if sorted(tensors[key].shape) != sorted(shape):
            continue
        plain = tensors.values(key).reshape(shape).astype(np.float64)
        own = tensors.modules[parent_of(key)].get("bias")
        own = own if own is not None and tensors[own].size == shape[axis] else None
        before = tensors.values(own).astype(np.float64) if own is not None else 0.0
        for norm in _norms(shape[axis], tensors, parent_of(key)):
            weight = plain * norm.scale.reshape(broadcast)
            used = (key, *norm.tensors, *((own,) if own is not None else ()))
            yield Fold(weight, (before - norm.mean) * norm.scale + norm.shift, used)


def folded_biases(size: int, tensors: CommitTensors) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """Yield the biases of batch norms, alone or with the bias of a convolution, and the tensors of each."""
    import numpy as np

    biases = [key for key in tensors.sizes.get(size, ()) if key.endswith(".bias")]
    for norm in _norms(size, tensors, ""):
        for own in (None, *near(biases, parent_of(norm.tensors[0]))[:_MOST_BIASES]):
            before = tensors.values(own).astype(np.float64) if own is not None else 0.0
            values = (before - norm.mean) * norm.scale + norm.shift
            yield values, (*norm.tensors, *((own,) if own is not None else ()))


def folded_batch_norm(weight: Any, bias: Any | None, dtype: str, found: Iterable[Fold]) -> tuple[str, ...] | None:
    """Return the tensors that a convolution's weight and bias were computed from; None if none match."""
    for fold in found:
        if is_close(weight, fold.weight, dtype) and (bias is None or is_close(bias, fold.bias, dtype)):
            return fold.tensors
    return None


def weight_norms(module: str, tensors: CommitTensors) -> Iterator[tuple[Any, tuple[str, str]]]:
    """Yield the products of magnitude and direction of a module's weight norms, and the tensors of each.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.parametrizations.weight_norm.html
    """
    import numpy as np

    owned = tensors.owned(module)
    inner = tensors.owned(f"{module}.parametrizations.weight")
    pairs = ((owned, "weight_g", "weight_v"), (inner, "original0", "original1"))
    for leaves, magnitude, direction in pairs:
        if magnitude not in leaves or direction not in leaves:
            continue
        gain, vector = (tensors.values(leaves[name]).astype(np.float64) for name in (magnitude, direction))
        axes = tuple(axis for axis, size in enumerate(gain.shape) if size == 1)
        yield vector * gain / np.sqrt((vector**2).sum(axes, keepdims=True)), (leaves[magnitude], leaves[direction])


def multiplied_out(array: Any, dtype: str, module: str, tensors: CommitTensors) -> tuple[str, str] | None:
    """Return the magnitude and direction of a weight norm whose product is an array; None if there are none."""
    for product, pair in weight_norms(module, tensors):
        if product.shape == array.shape and is_close(array, product, dtype):
            return pair
    return None


def tables_of(candidates: Iterable[str], tensors: CommitTensors) -> Iterator[tuple[str, Any]]:
    """Yield the tensors that have rows and fit in memory, with their values."""
    for key in candidates:
        entry = tensors[key]
        if len(entry.shape) > 1 and entry.length <= _LARGEST_TABLE:
            yield key, tensors.values(key).reshape(-1, entry.shape[-1])


def looked_up(array: Any, dtype: str, candidates: Iterable[str], tensors: CommitTensors) -> str | None:
    """Return the table whose rows an array contains, in any number and order; None without one."""
    import numpy as np

    for key, values in tables_of(candidates, tensors):
        table = cast(values, dtype)
        known = set(map(bytes, np.ascontiguousarray(table)))
        for axis in range(array.ndim):
            if array.shape[axis] == table.shape[1]:
                rows = np.ascontiguousarray(np.moveaxis(array, axis, -1)).reshape(-1, table.shape[1])
                if all(bytes(row) in known for row in rows):
                    return key
    return None


def stacked(
    array: Any,
    expected: Callable[[int], Sequence[str]],
    tensors: CommitTensors,
    layout_of: Callable[[Any, str], Layout | None],
) -> tuple[str, ...] | None:
    """Return the tensors of all experts of a layer that an array contains; None if it does not.

    transformers 5 has one tensor for all experts, and for the first two projections of an expert. A checkpoint has
    one for each, numbered from 0.

    `expected` returns the tensors of the first expert with some number of elements. `layout_of` returns the layout of
    a part of the array, None if it does not match. All parts must have one layout.
    """
    import numpy as np

    for axis in range(array.ndim):
        experts = np.moveaxis(array, axis, 0)
        if not len(experts) or experts[0].size < _PARTS[0]:
            continue
        for count, inner in ((1, 0), *((_PARTS[0], inner) for inner in range(experts.ndim - 1))):
            if experts[0].shape[inner : inner + 1] and experts[0].shape[inner] % count:
                continue
            first = sorted(
                expected(experts[0].size // count)
            )  # The gate is before the projection that it applies to, also by name.
            for keys in itertools.combinations(first, count):
                named = [[_of_expert(key, number) for key in keys] for number in range(len(experts))]
                if any(key not in tensors for names in named for key in names):
                    continue
                parts = (
                    pair
                    for expert, names in zip(experts, named, strict=True)
                    for pair in zip(np.split(expert, count, inner), names, strict=True)
                )
                layouts = {layout_of(part, key) for part, key in parts}
                if None not in layouts and len(layouts) == 1:
                    return tuple(key for names in named for key in names)
    return None


def first_experts(tensors: CommitTensors, size: int, module: str | None) -> list[str]:
    """Return the tensors of a size that the first expert of a layer owns.

    `module` is that of the layer or its experts; None if it is unknown, then tensors of all layers are returned.
    """
    wanted = _numbers(module) if module is not None else None
    return [
        key
        for key in tensors.sizes.get(size, ())
        if f".{EXPERTS}.0." in key and wanted in (None, _numbers(_at_experts(key)[0]))
    ]


def is_allowed(parts: Sequence[str], module: str | None) -> bool:
    """Whether a weight of a module may consist of these parts. In experts, all belong to one expert, in order."""
    if module is None or EXPERTS not in module.split("."):
        return True
    layer, at, rest = _at_experts(parts[0])
    expert = f"{layer}{at}{rest.partition('.')[0]}."
    in_order = list(parts) == sorted({*parts}) and all(key.startswith(expert) for key in parts)
    return in_order and _numbers(layer) == _numbers(module.partition(f".{EXPERTS}")[0])


def _numbers(name: str) -> list[int]:
    return [int(part) for part in name.split(".") if part.isdecimal()]


def _at_experts(key: str) -> tuple[str, str, str]:
    return key.rpartition(f".{EXPERTS}.")


def _of_expert(key: str, number: int) -> str:
    """Return the tensor of another expert than the first one."""
    before, _, after = key.rpartition(f".{EXPERTS}.0.")
    return f"{before}.{EXPERTS}.{number}.{after}"


def put_together(array: Any, find: Callable[[Any], str | None]) -> tuple[str, ...] | None:
    """Return the tensors that an array contains side by side in equal parts; None if it does not.

    `find` returns the tensor of a part.
    """
    import numpy as np

    for axis in range(array.ndim):
        for parts in _PARTS:
            if array.shape[axis] % parts or array.shape[axis] == parts:
                continue
            found = []
            for part in np.split(array, parts, axis):
                key = find(part)
                if key is None:
                    break
                found.append(key)
            if len(found) == parts:
                return tuple(found)
    return None


def is_close(array: Any, wanted: Any, dtype: str) -> bool:
    """Whether an array equals some values, within the precision of its type."""
    import numpy as np

    array = widened(array, dtype)
    rtol = _RTOL[dtype]
    wanted = np.broadcast_to(wanted, array.shape)
    return bool(np.allclose(array, wanted, rtol=rtol, atol=_ATOL * rtol * float(np.abs(wanted).max(initial=0.0))))
