"""The result for each tensor of a file: whether it is a tensor of the commit, or was computed from some.

Any other tensor is a constant by a named rule (a single number, a mask, a value that the model's code computes), or
foreign. A tensor that cannot be decoded, or that only code that does not run could explain, is unchecked.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

from optimum_htp.hierarchy.tree import parent_of
from optimum_htp.modules.proof.commit_tensors import CommitTensors
from optimum_htp.modules.proof.expected import MOST_TRIED, Expected
from optimum_htp.modules.proof.explained import Explanations
from optimum_htp.modules.proof.findings import Evidence, WeightFinding
from optimum_htp.modules.proof.layouts import Difference, Layout, compare, float_dtypes
from optimum_htp.modules.proof.model_code import ModelCode
from optimum_htp.modules.proof.quantized import QuantizedWeight, parameter_names, quantized_weights
from optimum_htp.modules.proof.steps import PlainSteps
from optimum_htp.modules.proof.stored_integers import judged_integers
from optimum_htp.modules.proof.uses import is_unknown_place, uses_of
from optimum_htp.onnxfile import Graph
from optimum_htp.onnxfile.contents import StoredTensor
from optimum_htp.onnxfile.operators import PRODUCTS, is_scale_or_zero_point, is_setting, role_of

__all__ = ["Judge"]

_SAMPLE: Final = 1 << 16  # Elements that are compared before all are.
_NEAR: Final = 0.5  # Share of the elements that may differ if the others identify the tensor.
_INTEGERS: Final = frozenset({"int8", "uint8", "int16", "uint16", "int32", "int64"})
# Types that only formats of quantized weights have.
_PACKED_TYPES: Final = frozenset({"int8", "uint8", "int4", "uint4", "int2", "uint2", "float4e2m1"})


class Judge:
    """Compares the tensors of a file with those of a commit.

    The model's code is used only for unexplained tensors.
    """

    def __init__(
        self, graph: Graph, stored: Sequence[StoredTensor], tensors: CommitTensors, code: ModelCode, *, tagged: bool
    ) -> None:
        uses = uses_of(graph, tagged=tagged, tensors=tensors)
        self._stored = {tensor.name: tensor for tensor in stored}
        self._repeated = {name for name, count in Counter(tensor.name for tensor in stored).items() if count > 1}
        self._tensors = tensors
        self._code = code
        self._expected = Expected(graph, uses, tensors, code)
        self._quantized = quantized_weights(graph, self._stored)
        self._parameters = parameter_names(graph, self._stored)
        self._steps = PlainSteps(graph, self._stored, uses)
        self._explanations = Explanations(graph, self._stored, tensors, self._expected, code, self._steps)
        weights = (tensor for tensor in stored if tensor.dtype in float_dtypes and tensor.size > 1)
        if any(is_unknown_place(use, tensors) for tensor in weights for use in self._expected.uses(tensor)):
            code.rename()

    def direct(self, tensor: StoredTensor) -> WeightFinding | None:
        """Return the finding about a tensor from the tensor alone; None if this is not enough.

        Can be called from any thread.
        """
        if tensor.name in self._repeated and tensor.name in self._quantized.keys() | self._parameters:
            how = "several graphs have a tensor of this name, so the scale of each is unknown"
            return self._expected.finding(tensor, Evidence.UNCHECKED, how)
        if (weight := self._quantized.get(tensor.name)) is not None:
            integers = self._integers(weight)
            return None if integers.evidence is Evidence.FOREIGN else integers
        if tensor.name in self._parameters and self._is_parameter(tensor):
            return self._expected.finding(tensor, Evidence.CONSTANT, "scale or zero point of quantization")
        if (dtype := self._dtype(tensor)) is None:
            return self._of_other_type(tensor)
        uses = self._expected.uses(tensor)
        if uses and all(is_setting(use.op_type, use.position) for use in uses):
            return self._expected.finding(tensor, Evidence.CONSTANT, f"a setting of {uses[0].op_type}")
        groups = self._expected.groups(tensor)
        if tensor.size == 0 or (tensor.size == 1 and not groups):
            return self._expected.finding(tensor, Evidence.CONSTANT, "a single number")
        array = self._array(tensor)
        for key in dict.fromkeys(key for group in groups for key in group):
            layout = self._expected.compare(tensor, array, dtype, key)
            if isinstance(layout, Layout):
                return self._matched(tensor, array, key, layout, groups)
        if not self._expected.is_certain(groups) and not self._expected.is_added_bias(tensor, groups):
            if (rule := self._rule_of(tensor, array, dtype)) is not None:
                return self._expected.finding(tensor, Evidence.CONSTANT, rule)
            found = self._expected.by_value(tensor, array, dtype, {key for group in groups for key in group})
            if found is not None:
                key, layout = found
                return self._expected.finding(tensor, _evidence(layout), layout.name, (key,), by_value=True)
        return None

    def prepare(self, unexplained: Iterable[StoredTensor]) -> None:
        """Let the model's code compute what these tensors may be, before `derived` is called for them."""
        self._explanations.prepare(
            self._quantized[tensor.name].size if tensor.name in self._quantized else tensor.size
            for tensor in unexplained
        )

    def derived(self, tensor: StoredTensor) -> WeightFinding:
        """Return the finding about a tensor that is not itself a tensor of the commit."""
        if (weight := self._quantized.get(tensor.name)) is not None:
            return self._explanations.of_integers(weight) or self._foreign_integers(weight)
        array, dtype = self._array(tensor), self._dtype(tensor) or "float32"
        if (found := self._explanations.certain(tensor, array, dtype)) is not None:
            return found
        groups = self._expected.groups(tensor)
        if not self._expected.is_certain(groups):
            if (match := self._expected.by_value(tensor, array, dtype, ())) is not None:
                key, layout = match
                return self._expected.finding(tensor, _evidence(layout), layout.name, (key,), by_value=True)
            if (rule := self._rule_of(tensor, array, dtype)) is not None:
                return self._expected.finding(tensor, Evidence.CONSTANT, rule)
            if (found := self._explanations.likely(tensor, array, dtype)) is not None:
                return found
        return self._foreign(tensor, array, dtype, groups)

    def placed(self, findings: Sequence[WeightFinding]) -> list[WeightFinding]:
        """Return findings in which weights that were matched by value only are unchecked if they may be exchanged.

        A file has its nodes in the order in which the model's code uses its parameters. If a weight is out of this
        order, or the names of its nodes belong to another module, it may have been exchanged with another weight.
        """
        doubtful = [
            index
            for index, finding in enumerate(findings)
            if finding.by_value and self._is_one_weight(finding.tensors) and self._has_twin(finding)
        ]
        if not doubtful:
            return list(findings)
        modules = list(dict.fromkeys(parent_of(key) for key in self._code.order))
        order = {module: number for number, module in enumerate(modules)}
        places = {index: order.get(parent_of(findings[index].tensors[0])) for index in doubtful}
        known = [(self._expected.first_use(findings[at].name), at) for at in doubtful if places[at] is not None]
        sequence = [at for _, at in sorted(known)]
        right = {sequence[at] for at in longest_rise([places[at] for at in sequence])}
        elsewhere = (
            at for at in right if self._expected.is_elsewhere(findings[at].name, parent_of(findings[at].tensors[0]))
        )
        open_ones = {*doubtful} - right | {*elsewhere}
        how = "it has the values of {}; it cannot be checked whether it belongs here"
        return [
            replace(finding, evidence=Evidence.UNCHECKED, how=how.format(finding.tensors[0]))
            if index in open_ones
            else finding
            for index, finding in enumerate(findings)
        ]

    def _is_one_weight(self, tensors: Sequence[str]) -> bool:
        """Whether a weight was matched to one tensor, or to a kernel and the batch norm that is folded into it."""
        is_folded = any(key.endswith(".running_mean") for key in tensors)
        return len(tensors) == 1 or (is_folded and len(self._tensors[tensors[0]].shape) > 1)

    def _has_twin(self, finding: WeightFinding) -> bool:
        """Whether the commit has other tensors with the shape of the matched one."""
        shape = sorted(self._tensors[finding.tensors[0]].shape)
        same = self._tensors.sizes.get(self._tensors[finding.tensors[0]].size, ())
        return sum(sorted(self._tensors[key].shape) == shape for key in same) > 1

    def _integers(self, weight: QuantizedWeight) -> WeightFinding:
        return judged_integers(weight, self._expected, self._tensors, self._steps)

    def _foreign_integers(self, weight: QuantizedWeight) -> WeightFinding:
        """Return the finding about integers without a match."""
        reason, tensor = self._code.failure, weight.tensor
        if reason is None or self._expected.is_said(tensor, weight.size):
            return self._integers(weight)
        return self._expected.finding(tensor, Evidence.UNCHECKED, reason)

    def _matched(
        self, tensor: StoredTensor, array: Any, key: str, layout: Layout, groups: Sequence[Sequence[str]]
    ) -> WeightFinding:
        """Return the finding about a matched tensor. It must match in each of its places."""
        for group in groups:
            if len(group) > 1 or key in group:
                continue
            if not isinstance(self._expected.compare(tensor, array, str(self._dtype(tensor)), group[0]), Layout):
                return self._expected.finding(
                    tensor, Evidence.FOREIGN, f"it is {key}, but is used in the place of {group[0]}", (key, group[0])
                )
        return self._expected.finding(tensor, _evidence(layout), layout.name, (key,))

    def _foreign(self, tensor: StoredTensor, array: Any, dtype: str, groups: Sequence[Sequence[str]]) -> WeightFinding:
        expected = list(dict.fromkeys(key for group in groups for key in group))
        found = self._expected.by_value(tensor, array, dtype, {*expected}) if tensor.size > 1 else None
        if found is not None:
            how = f"it has the values of {found[0]}, but is in the place of {' or '.join(expected)}"
            return self._expected.finding(tensor, Evidence.FOREIGN, how, (found[0], *expected))
        candidates = expected or self._tensors.sizes.get(tensor.size, ())[:MOST_TRIED]
        for key in candidates:
            if isinstance(compare(array, dtype, self._tensors[key], self._expected.reader(key), likely=True), Layout):
                how = f"it is {key} with its axes exchanged"
                return self._expected.finding(tensor, Evidence.FOREIGN, how, (key,))
        compared = ((key, self._expected.compare(tensor, array, dtype, key)) for key in candidates)
        differences = [(key, difference) for key, difference in compared if isinstance(difference, Difference)]
        is_sure = bool(expected) and (self._code.failure is None or self._expected.is_said(tensor))
        near = [one for one in differences if is_sure or one[1].share < _NEAR]
        if not near:
            if (reason := self._code.failure) is not None and not self._expected.is_of_experts(tensor):
                return self._expected.finding(tensor, Evidence.UNCHECKED, reason)
            return self._expected.finding(tensor, Evidence.FOREIGN, "no tensor of the commit has these values")
        key, last = min(near, key=lambda one: one[1].share)
        how = f"element {last.index} of {key} is {last.theirs:.6g} in the commit, but {last.ours:.6g} in the file"
        return self._expected.finding(tensor, Evidence.FOREIGN, how, tuple(expected) or (key,))

    def _dtype(self, tensor: StoredTensor) -> str | None:
        """Return the type of the numbers of a tensor for its users; None if weights do not have that type."""
        if tensor.dtype in float_dtypes:
            return tensor.dtype
        casts = any("Cast" in use.passed and role_of(use.op_type, use.position) for use in self._expected.uses(tensor))
        return "float32" if casts and tensor.dtype in _INTEGERS and tensor.size > 1 else None

    def _array(self, tensor: StoredTensor) -> Any:
        array = tensor.array()
        return array if tensor.dtype in float_dtypes else array.astype("float32")

    def _of_other_type(self, tensor: StoredTensor) -> WeightFinding:
        uses = self._expected.uses(tensor)
        if tensor.dtype in _PACKED_TYPES and tensor.size > 1 and uses:
            operators = " and ".join(sorted({use.op_type for use in uses}))
            how = f"{tensor.dtype} of {operators} cannot be decoded"
            return self._expected.finding(tensor, Evidence.UNCHECKED, how)
        return self._expected.finding(tensor, Evidence.CONSTANT, f"{tensor.dtype}: weights do not have this type")

    def _is_parameter(self, tensor: StoredTensor) -> bool:
        """Whether only quantization uses a scale or zero point. A weight may have such a name, or be both."""
        if tensor.dtype not in float_dtypes:
            return True
        if any(self._tensors[key].size == tensor.size for key in self._tensors.spelled(tensor.name)):
            return False
        of = [weight.tensor for weight in self._quantized.values() if weight.scale.name == tensor.name]
        return all(
            is_scale_or_zero_point(use.op_type, use.position)
            or (use.op_type == "Mul" and any(self._expected.is_multiplied(use, tensor, weight) for weight in of))
            for use in self._expected.uses(tensor)
        )

    def _rule_of(self, tensor: StoredTensor, array: Any, dtype: str) -> str | None:
        """Return why a tensor is not a weight, as far as its values show it; None if they do not.

        A matrix that a layer multiplies by is a weight, independent of its values. So is a tensor with the name of a
        weight.
        """
        if self._expected.is_named(tensor) or (
            array.ndim > 1
            and any(use.op_type in PRODUCTS and use.position == 1 for use in self._expected.uses(tensor))
        ):
            return None
        return _rule_of(array, dtype)


def longest_rise(numbers: Sequence[Any]) -> list[int]:
    """Return the indices of the longest non-decreasing subsequence of numbers."""
    ends: list[int] = []  # For each length, the index of the smallest number that a sequence ends with.
    before: list[int] = []
    for place, number in enumerate(numbers):
        length = bisect.bisect_right(ends, number, key=lambda end: numbers[end])
        before.append(ends[length - 1] if length else -1)
        ends[length : length + 1] = [place]
    found: list[int] = []
    place = ends[-1] if ends else -1
    while place >= 0:
        found.append(place)
        place = before[place]
    return found[::-1]


def _evidence(layout: Layout) -> Evidence:
    return Evidence.PROVEN if layout.same_type else Evidence.DERIVED


def _rule_of(array: Any, dtype: str) -> str | None:
    """Return why a tensor is not a weight, as far as its values show it; None if they do not."""
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
