"""Explains tensors that exporters, quantizers and the model's code compute from the commit's tensors."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from optimum_htp.modules.proof.commit_tensors import CommitTensors
from optimum_htp.modules.proof.expected import MOST_TRIED, Expected
from optimum_htp.modules.proof.findings import Evidence, WeightFinding
from optimum_htp.modules.proof.layouts import Layout, compare, float_dtypes, orders_of, widened
from optimum_htp.modules.proof.model_code import ModelCode
from optimum_htp.modules.proof.quantized import QuantizedWeight
from optimum_htp.modules.proof.recipes import Recipe, TooManyWeightsError, UnreadableParameterError
from optimum_htp.modules.proof.recomputed import (
    Fold,
    first_experts,
    folded_batch_norm,
    folded_biases,
    folds,
    is_allowed,
    is_close,
    looked_up,
    multiplied_out,
    put_together,
    stacked,
    tables_of,
    weight_norms,
)
from optimum_htp.modules.proof.steps import PlainSteps
from optimum_htp.modules.proof.stored_integers import are_rows_of, is_given_back, is_told
from optimum_htp.onnxfile import Graph
from optimum_htp.onnxfile.contents import StoredTensor
from optimum_htp.onnxfile.operators import CONVOLUTIONS, PACKED, PRODUCTS, Role, role_of

__all__ = ["Explanations"]

_SMALLEST_PART: Final = 2
_SHIFTED: Final = "a bias plus a constant of the model"
_NORMED: Final = "multiplied weight norm"


class Explanations:
    """Finds the origin of computed tensors."""

    def __init__(
        self,
        graph: Graph,
        stored: Mapping[str, StoredTensor],
        tensors: CommitTensors,
        expected: Expected,
        code: ModelCode,
        steps: PlainSteps,
    ) -> None:
        self._graph = graph
        self._stored = stored
        self._tensors = tensors
        self._expected = expected
        self._code = code
        self._steps = steps
        self._folded: dict[str, tuple[str, ...]] = {}
        self._stacked: dict[str, str] = {}
        self._recipes: Mapping[int, Sequence[Recipe]] = {}

    def prepare(self, sizes: Iterable[int]) -> None:
        """Let the model's code compute tensors of these numbers of elements, before they are needed."""
        if wanted := {size for size in sizes if size > 1}:
            self._recipes = self._code.recipes(wanted)

    def of_integers(self, weight: QuantizedWeight) -> WeightFinding | None:
        """Return the finding for integers that match values computed from tensors; None if they do not."""

        def is_it(values: Any) -> bool:
            return is_given_back(weight, values, self._steps)

        tensor, groups = weight.tensor, self._expected.groups(weight.tensor, weight.size)
        is_certain = self._expected.is_certain(groups)
        for values, how, keys in self._made_of_own(weight):
            if is_it(values):
                how = f"{how}, quantized"
                return self._expected.finding(tensor, Evidence.DERIVED, how, keys, by_value=not groups)
        if (made := self._made_by_code(tensor, weight.size, is_it, certain=is_certain)) is not None:
            return made
        for key, table in tables_of(self._expected.tables(tensor), self._tensors) if not is_certain else ():
            if are_rows_of(weight, table, self._steps):
                if is_told(weight, table.shape[1]):
                    return self._expected.finding(tensor, Evidence.DERIVED, "rows of a table, quantized", (key,))
                how = f"as rows of {key}, it has too few numbers to distinguish them from others"
                return self._expected.finding(tensor, Evidence.UNCHECKED, how, (key,))
        return None

    def _made_of_own(self, weight: QuantizedWeight) -> Iterator[tuple[Any, str, tuple[str, ...]]]:
        """Yield computed values that integers may represent: the values, the computation, and its tensors."""
        tensor = weight.tensor
        if self._is_bias(tensor):
            for values, norm in folded_biases(weight.size, self._tensors):
                yield values, "folded batch norm", norm
            for values, bias in self._sums(tensor, weight.size):
                yield values, _SHIFTED, (bias,)
        elif self._expected.is_convolved(tensor):
            for fold in self._folds(tensor, "Conv"):
                yield fold.weight, "folded batch norm", fold.tensors
        for module in self._expected.modules(tensor) or self._normed(tensor):
            for product, pair in weight_norms(module, self._tensors):
                yield product, _NORMED, pair

    def certain(self, tensor: StoredTensor, array: Any, dtype: str) -> WeightFinding | None:
        """Return the finding for a tensor computed from the tensors of its own place; None if it is not."""
        if (norm := self._batch_norm(tensor)) is not None:
            return self._expected.finding(tensor, Evidence.DERIVED, "folded batch norm", norm)
        if (bias := self._shifted(tensor, array, dtype)) is not None:
            return self._expected.finding(tensor, Evidence.DERIVED, _SHIFTED, (bias,))
        is_certain = self._expected.is_certain(self._expected.groups(tensor))
        if (made := self._made_by_code(tensor, tensor.size, _equal_to(array, dtype), certain=is_certain)) is not None:
            return made
        for module in self._expected.modules(tensor) or self._normed(tensor):
            if (pair := multiplied_out(array, dtype, module, self._tensors)) is not None:
                return self._expected.finding(tensor, Evidence.DERIVED, _NORMED, pair)
        return None

    def likely(self, tensor: StoredTensor, array: Any, dtype: str) -> WeightFinding | None:
        """Return the finding for a tensor computed from any tensors, if its place is unknown; None if it is not."""
        for values, norm in folded_biases(tensor.size, self._tensors) if self._is_bias(tensor) else ():
            if is_close(array.reshape(-1), values, dtype):
                return self._expected.finding(tensor, Evidence.DERIVED, "folded batch norm", norm, by_value=True)
        table = looked_up(array, dtype, self._expected.tables(tensor), self._tensors)
        if table is not None:
            return self._expected.finding(tensor, Evidence.DERIVED, "rows of a table", (table,))
        module = self._expected.module(tensor)
        if (experts := self._experts(tensor, array, dtype, module)) is not None:
            return self._expected.finding(tensor, Evidence.DERIVED, "the experts of a layer, concatenated", experts)
        parts = put_together(array, functools.partial(self._part, tensor, dtype)) if array.ndim else None
        if parts is None:
            return None
        if not is_allowed(parts, module):
            how = "concatenated from tensors of other experts, or in another order"
            return self._expected.finding(tensor, Evidence.FOREIGN, how, parts)
        return self._expected.finding(tensor, Evidence.DERIVED, "concatenated", parts, by_value=True)

    def _made_by_code(
        self, tensor: StoredTensor, size: int, is_it: Callable[[Any], bool], *, certain: bool
    ) -> WeightFinding | None:
        """Return the finding for what the model's code computes from parameters and constants; None for other tensors.

        `size` is the number of elements that the tensor represents; `is_it` returns whether it has some values.
        `certain` says that its name or place determines which tensor it must be. Then it must be computed in its own
        module.
        """
        for name, values in self._code.constants(size) if not certain else ():
            if is_it(values):
                return self._of_code(tensor, values, name, ())
        for recipe in self._recipes.get(size, ()):
            if certain and not recipe.parameters:
                continue
            if not self._expected.is_recipe_of(recipe.module, tensor, recipe.parameters):
                continue
            try:
                values = recipe.values()
            except TooManyWeightsError as error:
                self._code.failure = str(error)
                continue
            except UnreadableParameterError:
                continue
            if is_it(values):
                keys = tuple(key for name in recipe.parameters for key in self._tensors.spelled(name)[:1])
                return self._of_code(tensor, values, f"{recipe.operator} in {recipe.module or 'the model'}", keys)
        return None

    def _of_code(self, tensor: StoredTensor, values: Any, what: str, keys: tuple[str, ...]) -> WeightFinding:
        """Return the finding for a tensor that the code computes. A matrix of equal numbers may be a lost weight."""
        if keys:
            how, named = f"computed by the model's code: {what}", self._expected.groups(tensor, values.size)
            return self._expected.finding(tensor, Evidence.DERIVED, how, keys, by_value=not named)
        multiplies = any(use.op_type in PRODUCTS for use in self._expected.uses(tensor))
        is_matrix = len(tensor.shape) > 1 or any(use.op_type in PACKED for use in self._expected.uses(tensor))
        if multiplies and is_matrix and values.size and (values == values.flat[0]).all():
            how = f"equal numbers, which the model's code also computes ({what}), and no layer multiplies by them"
            return self._expected.finding(tensor, Evidence.UNCHECKED, how)
        return self._expected.finding(tensor, Evidence.CONSTANT, f"computed by the model's code: {what}")

    def _batch_norm(self, tensor: StoredTensor) -> tuple[str, ...] | None:
        """Return the tensors that a convolution's weight or bias was computed from; None for other tensors."""
        if tensor.name in self._folded:
            return self._folded[tensor.name]
        for use in self._expected.uses(tensor):
            if use.op_type not in CONVOLUTIONS or use.position not in (1, 2):
                continue
            inputs = self._graph.nodes[use.node].inputs
            weight = self._stored.get(inputs[1])
            bias = self._stored.get(inputs[2]) if len(inputs) > 2 else None
            if weight is None or weight.dtype not in float_dtypes:
                continue
            biases = bias.array() if bias is not None else None
            found = folded_batch_norm(weight.array(), biases, weight.dtype, self._folds(weight, use.op_type))
            if found is not None:
                self._folded[weight.name] = found
                if bias is not None:
                    self._folded[bias.name] = found
                return found
        return None

    def _folds(self, weight: StoredTensor, operator: str) -> Iterator[Fold]:
        named = [key for group in self._expected.groups(weight) for key in group]
        candidates = (named or self._tensors.sizes.get(weight.size, []))[:MOST_TRIED]
        return folds(weight.shape, candidates, self._tensors, transposed=operator == "ConvTranspose")

    def _normed(self, tensor: StoredTensor) -> list[str]:
        """Return the modules with a weight norm, for a convolution in a file without tags."""
        if not any(use.op_type in CONVOLUTIONS and use.position == 1 for use in self._expected.uses(tensor)):
            return []
        return [
            module.removesuffix(".parametrizations.weight")
            for module, leaves in self._tensors.modules.items()
            if {"weight_g", "original0"} & leaves.keys()
        ]

    def _is_bias(self, tensor: StoredTensor) -> bool:
        return any(role_of(use.op_type, use.position) is Role.BIAS for use in self._expected.uses(tensor))

    def _shifted(self, tensor: StoredTensor, array: Any, dtype: str) -> str | None:
        """Return the bias in a sum of a bias and a constant of the model's code; None for another tensor."""
        if not self._is_bias(tensor):
            return None
        is_it = _equal_to(array, dtype)
        return next((key for values, key in self._sums(tensor, tensor.size) if is_it(values)), None)

    def _sums(self, tensor: StoredTensor, size: int) -> Iterator[tuple[Any, str]]:
        """Yield the sums of a bias and a constant of the model's code that a tensor may be, with the bias of each."""
        named = [key for group in self._expected.groups(tensor, size) for key in group]
        for key in named or self._tensors.sizes.get(size, ())[:MOST_TRIED]:
            for _, values in self._code.constants(size):
                yield self._tensors.values(key).reshape(-1) + values.reshape(-1), key

    def _experts(self, tensor: StoredTensor, array: Any, dtype: str, module: str | None) -> tuple[str, ...] | None:
        def layout_of(part: Any, key: str) -> Layout | None:
            if self._tensors[key].size != part.size or self._stacked.get(key, tensor.name) != tensor.name:
                return None  # A projection has one place, and those of an expert may have the same size.
            layout = compare(part, dtype, self._tensors[key], self._expected.reader(key), likely=True)
            return layout if isinstance(layout, Layout) else None

        found = stacked(array, lambda size: first_experts(self._tensors, size, module), self._tensors, layout_of)
        self._stacked.update(dict.fromkeys(found or (), tensor.name))
        return found

    def _part(self, tensor: StoredTensor, dtype: str, array: Any) -> str | None:
        if array.size < _SMALLEST_PART or array.size not in self._tensors.sizes:
            return None
        found = self._expected.by_value(tensor, array, dtype, ())
        return found[0] if found is not None else None


def _equal_to(array: Any, dtype: str) -> Callable[[Any], bool]:
    """Return a function that checks whether an array has some values, in any order of its axes."""
    import numpy as np

    array = widened(array, dtype)
    rtol = 1e-5 if dtype in ("float32", "float64") else 1e-2

    def is_equal(values: Any) -> bool:
        wanted = values.reshape(-1)
        atol = max(1e-6, 0.1 * rtol * float(np.abs(wanted).max(initial=0.0)))
        return any(np.allclose(view.reshape(-1), wanted, rtol=rtol, atol=atol) for view in orders_of(array))

    return is_equal
