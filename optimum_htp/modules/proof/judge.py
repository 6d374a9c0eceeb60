"""The verdict on each tensor of a file: first whether it is one of the commit's, then whether it was made of some.

What is neither is a constant by a rule that is named (numbers of a type that no weight has, one number, a mask, what
the model's code computes), or foreign.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from optimum_htp.hierarchy.tree import shared_path
from optimum_htp.modules.proof.commit_tensors import CommitTensors
from optimum_htp.modules.proof.findings import Evidence, WeightFinding
from optimum_htp.modules.proof.layouts import Difference, Layout, compare, float_dtypes
from optimum_htp.modules.proof.places import Use, expectations, is_unknown_place, uses_of
from optimum_htp.modules.proof.quantized import is_parameter_input, parameter_names, quantized_weights
from optimum_htp.modules.proof.recomputed import (
    first_experts,
    folded_batch_norm,
    is_allowed,
    looked_up,
    multiplied_out,
    put_together,
    stacked,
)
from optimum_htp.modules.proof.steps import TOO_COARSE, PlainSteps, missed_steps
from optimum_htp.onnxfile import Graph
from optimum_htp.onnxfile.contents import StoredTensor
from optimum_htp.origin.computed import computed_tensors, saved_names

__all__ = ["Judge"]

_CONVOLUTIONS: Final = ("Conv", "ConvTranspose")
_MOST_TRIED: Final = 1024  # tensors of one size that are looked at for one weight
_SAMPLE: Final = 1 << 16  # elements that are looked at before all are
_SMALLEST_PART: Final = 2


class Judge:
    """Holds the tensors of a file against those of a commit.

    Args:
        graph: Of the file.
        stored: Its tensors.
        tensors: Of the commit.
        blank: Returns the model without weights, None where it cannot be built; asked only where something is
            unexplained.
        tagged: Whether its nodes say their modules.
    """

    def __init__(
        self,
        graph: Graph,
        stored: Sequence[StoredTensor],
        tensors: CommitTensors,
        blank: Callable[[], Any],
        *,
        tagged: bool,
    ) -> None:
        self._graph = graph
        self._uses = uses_of(graph, tagged=tagged)
        self._stored = {tensor.name: tensor for tensor in stored}
        self._tensors = tensors
        self._blank = functools.cache(blank)
        self._quantized = quantized_weights(graph, self._stored)
        self._parameters = parameter_names(graph, self._stored)
        self._steps = PlainSteps(graph, self._stored, self._uses)
        self._folded: dict[str, tuple[str, ...]] = {}
        self._stacked: dict[str, str] = {}
        weights = (tensor.name for tensor in stored if tensor.dtype in float_dtypes and tensor.size > 1)
        if any(is_unknown_place(use, tensors) for name in weights for use in self._uses.get(name, ())):
            model = self._blank()
            tensors.rename(saved_names(model) if model is not None else {})

    def direct(self, tensor: StoredTensor) -> WeightFinding | None:
        """Return what is known of a tensor by itself; None where that is nothing. From any thread."""
        if tensor.name in self._quantized:
            return self._dequantized(tensor)
        if tensor.name in self._parameters and self._is_parameter(tensor):
            return self._finding(tensor, Evidence.CONSTANT, "scale or zero point of quantization")
        if tensor.dtype not in float_dtypes:
            return self._finding(tensor, Evidence.CONSTANT, f"{tensor.dtype}: a type that no weight has")
        groups = self._groups(tensor)
        if tensor.size == 0 or (tensor.size == 1 and not groups):
            return self._finding(tensor, Evidence.CONSTANT, "a single number")
        array = tensor.array()
        for key in dict.fromkeys(key for group in groups for key in group):
            layout = self._compare(array, tensor.dtype, key, likely=True)
            if isinstance(layout, Layout):
                return self._matched(tensor, array, key, layout, groups)
        if not self._strict(groups) and not self._is_added_bias(tensor, groups):
            if (rule := _rule_of(array, tensor.dtype)) is not None:
                return self._finding(tensor, Evidence.CONSTANT, rule)
            tried = {key for group in groups for key in group}
            found = self._by_value(array, tensor.dtype, tensor.size, tried)
            if found is not None:
                key, layout = found
                return self._finding(tensor, _evidence(layout), layout.name, (key,), by_value=True)
        return None

    def derived(self, tensor: StoredTensor) -> WeightFinding:
        """Return what is known of a tensor that is by itself none of the commit's."""
        array, dtype = tensor.array(), tensor.dtype
        if tensor.name in self._folded:
            return self._finding(tensor, Evidence.DERIVED, "folded batch norm", self._folded[tensor.name])
        if (norm := self._batch_norm(tensor, array)) is not None:
            return self._finding(tensor, Evidence.DERIVED, "folded batch norm", norm)
        modules = self._modules(tensor)
        for module in modules:
            if (pair := multiplied_out(array, dtype, module, self._tensors)) is not None:
                return self._finding(tensor, Evidence.DERIVED, "weight norm, multiplied out", pair)
        groups = self._groups(tensor)
        if not self._strict(groups):
            if (found := self._by_value(array, dtype, tensor.size, set())) is not None:
                return self._finding(tensor, _evidence(found[1]), found[1].name, (found[0],), by_value=True)
            if (rule := _rule_of(array, dtype)) is not None:
                return self._finding(tensor, Evidence.CONSTANT, rule)
            table = looked_up(array, dtype, self._tables(tensor, modules), self._tensors)
            if table is not None:
                return self._finding(tensor, Evidence.DERIVED, "rows of a table", (table,))
            for name, values in self._computed:
                if values.size == tensor.size and _same_values(array, dtype, values):
                    return self._finding(tensor, Evidence.CONSTANT, f"computed by the model's code: {name}")
            shared = functools.reduce(shared_path, modules) if modules else None
            if (experts := self._experts(tensor, array, shared)) is not None:
                return self._finding(tensor, Evidence.DERIVED, "the experts of a layer, put together", experts)
            parts = put_together(array, functools.partial(self._part, dtype=dtype)) if array.ndim else None
            if parts is not None and is_allowed(parts, shared):
                return self._finding(tensor, Evidence.DERIVED, "put together", parts, by_value=True)
        return self._foreign(tensor, array, groups)

    def _matched(
        self, tensor: StoredTensor, array: Any, key: str, layout: Layout, groups: Sequence[Sequence[str]]
    ) -> WeightFinding:
        """Return the finding on a tensor that is one that it may be: it has to be so in each of its places."""
        for group in groups:
            if len(group) > 1 or key in group:
                continue
            if not isinstance(self._compare(array, tensor.dtype, group[0], likely=True), Layout):
                return self._finding(
                    tensor, Evidence.FOREIGN, f"it is {key}, and is used in the place of {group[0]}", (key, group[0])
                )
        return self._finding(tensor, _evidence(layout), layout.name, (key,))

    def _foreign(self, tensor: StoredTensor, array: Any, groups: Sequence[Sequence[str]]) -> WeightFinding:
        expected = list(dict.fromkeys(key for group in groups for key in group))
        found = self._by_value(array, tensor.dtype, tensor.size, set(expected)) if tensor.size > 1 else None
        if found is not None:
            how = f"it has the values of {found[0]}, in the place of {' or '.join(expected)}"
            return self._finding(tensor, Evidence.FOREIGN, how, (found[0], *expected))
        differences = [
            (key, difference)
            for key in expected
            if isinstance(difference := self._compare(array, tensor.dtype, key, likely=True), Difference)
        ]
        if not differences:
            return self._finding(tensor, Evidence.FOREIGN, "no tensor of the commit has these values")
        key, last = min(differences, key=lambda one: one[1].share)
        how = f"element {last.index} of {key} is {last.theirs:.6g} in the commit, and {last.ours:.6g} here"
        return self._finding(tensor, Evidence.FOREIGN, how, tuple(expected))

    @functools.cached_property
    def _computed(self) -> Sequence[tuple[str, Any]]:
        """The tensors that the model's code computes."""
        model = self._blank()
        return computed_tensors(model) if model is not None else ()

    def _is_parameter(self, tensor: StoredTensor) -> bool:
        """Whether nothing but quantization takes a scale or zero point: a weight may bear such a name, or be both."""
        if tensor.dtype not in float_dtypes:
            return True
        if any(self._tensors[key].size == tensor.size for key in self._tensors.spelled(tensor.name)):
            return False
        of = [weight.tensor for weight in self._quantized.values() if weight.scale.name == tensor.name]
        return all(
            is_parameter_input(use.op_type, use.position)
            or (use.op_type == "Mul" and any(self._multiplies(use, tensor, weight) for weight in of))
            for use in self._uses.get(tensor.name, ())
        )

    def _multiplies(self, use: Use, scale: StoredTensor, weight: StoredTensor) -> bool:
        """Whether a product may be that of integers and their scale: in a module that has the weight, or has nothing
        else of the scale's size."""
        owned = self._tensors.owned(use.module).values() if use.module is not None else ()
        sizes = {self._tensors[key].size for key in owned}
        return weight.size in sizes or scale.size not in sizes

    def _dequantized(self, tensor: StoredTensor) -> WeightFinding:
        """Return what is known of integers: they have to give a tensor back within half a step."""
        weight = self._quantized[tensor.name]
        sizes = list(self._tensors.sizes) if weight.packed else [tensor.size]
        steps = self._steps.range(weight)
        missed: list[tuple[float, str]] = []
        for size in sizes:
            try:
                integers = weight.numbers(size)
            except ValueError:
                continue
            groups = expectations(tensor.name, size, self._uses.get(tensor.name, ()), self._tensors)
            expected = list(dict.fromkeys(key for group in groups for key in group))
            strict = self._strict(groups)
            others = [] if strict else [key for key in self._tensors.sizes.get(size, ()) if key not in expected]
            for key in (*expected, *others[:_MOST_TRIED]):
                excess = missed_steps(weight, integers, self._tensors.values(key), steps)
                if excess == 0:
                    how = f"quantized to {'4 bits' if weight.packed else tensor.dtype}, within half a step"
                    return self._finding(tensor, Evidence.DERIVED, how, (key,), by_value=not expected)
                missed.append((excess, key))
        if not missed:
            if len(self._uses.get(tensor.name, ())) == 0 or tensor.size <= 1:
                return self._finding(tensor, Evidence.CONSTANT, "a single number")
            how = "no tensor of the commit is of this size"
            return self._finding(tensor, Evidence.FOREIGN, how)
        excess, key = min(missed)
        how = f"{key} is missed by up to {excess + 0.5:.3g} steps of quantization, where half a one is allowed"
        if excess == TOO_COARSE:
            how = f"{key} would be given back by anything: its steps of quantization are too coarse to tell"
        elif excess == float("inf"):
            how = f"{key} is not given back: a step of quantization is 0, or no number"
        return self._finding(tensor, Evidence.FOREIGN, how, (key,))

    def _batch_norm(self, tensor: StoredTensor, array: Any) -> tuple[str, ...] | None:
        for use in self._uses.get(tensor.name, ()):
            if use.op_type not in _CONVOLUTIONS or use.position not in (1, 2):
                continue
            inputs = self._graph.nodes[use.node].inputs
            weight = self._stored.get(inputs[1])
            bias = self._stored.get(inputs[2]) if len(inputs) > 2 else None
            if weight is None or weight.dtype not in float_dtypes:
                continue
            groups = self._groups(weight)
            candidates = [key for group in groups for key in group] or self._tensors.sizes.get(weight.size, [])
            found = folded_batch_norm(
                weight.array(),
                bias.array() if bias is not None else None,
                weight.dtype,
                candidates[:_MOST_TRIED],
                self._tensors,
                transposed=use.op_type == "ConvTranspose",
            )
            if found is not None:
                self._folded[weight.name] = found
                if bias is not None:
                    self._folded[bias.name] = found
                return found
        return None

    def _is_added_bias(self, tensor: StoredTensor, groups: Sequence[Sequence[str]]) -> bool:
        """Whether a tensor is the bias of a convolution that has none in the commit: folding a batch norm adds it."""
        uses = self._uses.get(tensor.name, ())
        return not groups and any(use.op_type in _CONVOLUTIONS and use.position == 2 for use in uses)

    def _groups(self, tensor: StoredTensor) -> list[list[str]]:
        groups = expectations(tensor.name, tensor.size, self._uses.get(tensor.name, ()), self._tensors)
        return [kept for group in groups if (kept := self._readable(group))]

    def _strict(self, groups: Iterable[Sequence[str]]) -> bool:
        """Whether name or place say of a tensor that it is one of the commit's: then nothing else explains it."""
        return any(len(group) == 1 for group in groups)

    def _readable(self, keys: Iterable[str]) -> list[str]:
        return [key for key in keys if self._tensors.is_readable(key)]

    def _by_value(self, array: Any, dtype: str, size: int, tried: set[str]) -> tuple[str, Layout] | None:
        for key in self._tensors.sizes.get(size, [])[:_MOST_TRIED]:
            if key not in tried:
                layout = self._compare(array, dtype, key, likely=False)
                if isinstance(layout, Layout):
                    return key, layout
        return None

    def _tables(self, tensor: StoredTensor, modules: Iterable[str]) -> list[str]:
        """Return the tensors whose rows a tensor may be made of: those of the modules in which it is used.

        A newer transformers may have put a table into the module around its own. All rows of a weight in another order
        are a weight that was changed.
        """
        inside = dict.fromkeys(key for module in modules for key in self._tensors.within(module))
        owned = {key for module in modules for key in self._tensors.owned(module).values()}
        return [
            key
            for key in self._readable(inside | dict.fromkeys(owned))
            if key in owned or not key.endswith((".weight", ".bias")) or tensor.size < self._tensors[key].size
        ]

    def _experts(self, tensor: StoredTensor, array: Any, module: str | None) -> tuple[str, ...] | None:
        def layout_of(part: Any, key: str) -> Layout | None:
            if self._tensors[key].size != part.size or self._stacked.get(key, tensor.name) != tensor.name:
                return None  # a projection has one place, and those of an expert may be of one size
            layout = self._compare(part, tensor.dtype, key, likely=True)
            return layout if isinstance(layout, Layout) else None

        found = stacked(array, lambda size: first_experts(self._tensors, size, module), self._tensors, layout_of)
        self._stacked.update(dict.fromkeys(found or (), tensor.name))
        return found

    def _part(self, array: Any, *, dtype: str) -> str | None:
        if array.size < _SMALLEST_PART or array.size not in self._tensors.sizes:
            return None
        found = self._by_value(array, dtype, array.size, set())
        return found[0] if found is not None else None

    def _compare(self, array: Any, dtype: str, key: str, *, likely: bool) -> Layout | Difference:
        read = functools.partial(self._tensors.read, key)
        return compare(array, dtype, self._tensors[key], read, likely=likely)

    def _modules(self, tensor: StoredTensor) -> list[str]:
        modules = (use.module for use in self._uses.get(tensor.name, ()))
        return list(dict.fromkeys(module for module in modules if module is not None))

    def _finding(
        self, tensor: StoredTensor, evidence: Evidence, how: str, keys: tuple[str, ...] = (), *, by_value: bool = False
    ) -> WeightFinding:
        modules = self._modules(tensor)
        module = functools.reduce(shared_path, modules) if modules else None
        return WeightFinding(tensor.name, module, evidence, how, keys, tensor.size, by_value)


def _evidence(layout: Layout) -> Evidence:
    return Evidence.PROVEN if layout.same_type else Evidence.DERIVED


def _rule_of(array: Any, dtype: str) -> str | None:
    """Return why a tensor is no weight, as far as its values tell; None where they do not."""
    import numpy as np

    sample = np.unique(array.reshape(-1)[:_SAMPLE])
    if len(sample) > 2:
        return None
    values = np.unique(array)
    if len(values) == 1:
        return "all of one value"
    if dtype == "bfloat16" or len(values) > 2:
        return None
    least = np.finfo(array.dtype).min
    kept = {float(value) for value in values} <= {0.0, 1.0, float("-inf"), float(least)}
    return "a mask" if kept else None


def _same_values(array: Any, dtype: str, values: Any) -> bool:
    import numpy as np

    if dtype == "bfloat16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    rtol = 1e-5 if dtype in ("float32", "float64") else 1e-2
    return bool(np.allclose(np.asarray(array).reshape(-1), values.reshape(-1), rtol=rtol, atol=1e-6))
