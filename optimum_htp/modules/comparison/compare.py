"""Compares structure, weights, and output values of two models, module by module, on the same inputs."""

from __future__ import annotations

import functools
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from optimum_htp.errors import ArgumentError, ComparisonError
from optimum_htp.hierarchy.assign import Assignment
from optimum_htp.hierarchy.rewritten import Original, assign_rewritten
from optimum_htp.hierarchy.scopes import ScopeResolver
from optimum_htp.hierarchy.tags import MODULE, read_modules, tagged_assignment
from optimum_htp.hierarchy.tree import EXPERTS, ROOT, parent_of
from optimum_htp.hubs.base import HubAccess
from optimum_htp.metadata import record_if_any
from optimum_htp.modules.comparison.onnx_side import Leaving, OnnxValues, leaving_values, read_arrays, refuse_random
from optimum_htp.modules.comparison.records import (
    Comparison,
    Distance,
    ModuleComparison,
    ValueComparison,
    WeightComparison,
    distance,
    distance_of_rows,
    incomparable,
)
from optimum_htp.modules.comparison.torch_side import open_torch_model
from optimum_htp.modules.comparison.weights import (
    FileWeights,
    compare_weights,
    compare_with_parameters,
    without_derived,
)
from optimum_htp.onnxfile import Graph, read_graph, read_header
from optimum_htp.onnxfile.unchanged import unchanged
from optimum_htp.profiling.inputs import sample_inputs

__all__ = ["ATOL", "RTOL", "compare_models"]

ATOL: Final = 1e-4
RTOL: Final = 1e-3
_BUDGET: Final = 1 << 27  # Bytes of values in memory at a time, on each side.
_FIRST: Final = 8  # Modules in the first batch, whose sizes are unknown.

Progress = Callable[[int, int], object]


def compare_models(
    one: str | os.PathLike[str],
    other: str | os.PathLike[str] | None = None,
    *,
    pytorch: bool = False,
    inputs: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    atol: float = ATOL,
    rtol: float = RTOL,
    progress: Progress | None = None,
    access: HubAccess | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    trust_remote_code: bool = False,
) -> Comparison:
    """Compare an ONNX file with another, or with the PyTorch model that it was exported from.

    Args:
        one: A tagged ONNX file.
        other: Another ONNX file of the same model, for example quantized. It needs no tags.
        pytorch: Whether to compare with the PyTorch model of the file's commit, in place of `other`.
        inputs: Arrays by name, or an `.npz` file of them; None for generated inputs.
        atol: The absolute tolerance in `atol + rtol * |expected|`, for each element.
        rtol: The relative tolerance.
        progress: Called with the number of finished modules and the total number.
        access: Options for Hub requests. `token`, `cache_dir` and `local_files_only` are its fields, as arguments.
        trust_remote_code: Whether code of the model's repo may run.

    Raises:
        MetadataError: The first file has no tags.
        FileChangedError: A file or its data was replaced meanwhile.
        ComparisonError: A model does not run, or they have no values in common.
        HFHubIntegrationError: The model cannot be downloaded; the subclass gives the reason.
    """
    if (other is None) == (not pytorch):
        raise ArgumentError("Pass either another file or pytorch=True (--pytorch).")
    if not (atol >= 0 and rtol >= 0):
        raise ArgumentError(f"Tolerances must be 0 or more, not {atol} and {rtol}.")
    with unchanged(*(one,) if other is None else (one, other)):
        first = _File.opened(Path(one))
        refuse_random(first.path, first.graph, first.assignment.modules)
        given = read_arrays(inputs)
        if other is not None:
            modules = _with_file(first, Path(other), given, atol, rtol, progress)
            name = os.fspath(other)
        else:
            access = HubAccess.of(access, token, cache_dir, local_files_only)
            modules = _with_torch(first, given, atol, rtol, access, trust_remote_code, progress)
            record = record_if_any(one)
            name = f"PyTorch ({record.source if record is not None else 'its model'})"
    _note_added(modules, first.leaving)
    if (comparison := Comparison(os.fspath(one), name, atol, rtol, tuple(modules.values()))).compared:
        return comparison
    raise ComparisonError(f"{one} and {name} have no common values to compare.")


@dataclass(frozen=True)
class _File:
    """A tagged file.

    Attributes:
        leaving: The output values of its modules.
    """

    path: Path
    graph: Graph
    assignment: Assignment
    leaving: Leaving

    @classmethod
    def opened(cls, path: Path) -> _File:
        graph, assignment = read_modules(path)
        return cls(path, graph, assignment, leaving_values(graph, assignment))

    def values(self, feeds: Mapping[str, Any], wanted: Sequence[str]) -> OnnxValues:
        return OnnxValues(self.path, feeds, wanted, [spec.name for spec in self.graph.outputs])

    def modules(self) -> dict[str, ModuleComparison]:
        """Return an empty comparison for each module, in order of execution."""
        tree = self.assignment.tree
        known = dict.fromkeys([*self.leaving.values, *self.assignment.modules])
        return {name: ModuleComparison(name, tree.classes.get(name, "")) for name in known}


def _with_file(
    first: _File, path: Path, given: Mapping[str, Any] | None, atol: float, rtol: float, progress: Progress | None
) -> dict[str, ModuleComparison]:
    graph = read_graph(path)
    modules = first.modules()
    theirs = _modules_of(path, graph, first)
    _note_structure(modules, first, graph, theirs)
    weights = compare_weights(
        FileWeights(first.path, first.graph, first.assignment.modules), FileWeights(path, graph, theirs), atol, rtol
    )
    _note_weights(modules, weights)
    made = {value for node in graph.nodes if not node.within for value in node.outputs}
    shared = {name: [value for value in values if value in made] for name, values in first.leaving.values.items()}
    feeds = given if given is not None else sample_inputs(first.path)
    wanted = [value for values in shared.values() for value in values]
    one = first.values(feeds, wanted)
    other = OnnxValues(path, feeds, wanted, [spec.name for spec in graph.outputs])
    known: dict[str, ValueComparison] = {}
    for batch in _batches(list(shared), progress):
        names = [value for name in batch for value in shared[name] if value not in known]
        expected, found = one.values(names), other.values(names)
        for value, array in expected.items():
            known[value] = _against(value, array, found.get(value), atol, rtol)
        for name in batch:
            modules[name].values += [known[value] for value in shared[name] if value in known]
        batch.used = sum(array.nbytes for array in expected.values())
    _note_missing_outputs(modules, first, {spec.name for spec in graph.outputs})
    return modules


def _against(value: str, expected: Any, found: Any | None, atol: float, rtol: float) -> ValueComparison:
    """Return the comparison with the other file's value. A value of another kind exceeds any tolerance."""
    if found is None:
        return ValueComparison(value, incomparable(expected.size), problem="has another type in the other file")
    if found.size != expected.size:
        shapes = ["x".join(map(str, array.shape)) or "a number" for array in (expected, found)]
        return ValueComparison(
            value, incomparable(expected.size), problem=f"has the shape {shapes[0]}, but {shapes[1]} in the other file"
        )
    return ValueComparison(value, distance(found, expected, atol, rtol))


def _note_missing_outputs(modules: dict[str, ModuleComparison], first: _File, others: Collection[str]) -> None:
    """Add the outputs that the other file lacks to the modules whose outputs they are."""
    for output in (spec.name for spec in first.graph.outputs if spec.name not in others):
        left = [name for name, values in first.leaving.values.items() if output in values] or [ROOT]
        for name in left:
            module = modules.setdefault(name, ModuleComparison(name, first.assignment.tree.classes.get(name, "")))
            module.values = [value for value in module.values if value.name != output]
            module.values.append(
                ValueComparison(output, incomparable(1), problem="is not an output of the other file")
            )


def _with_torch(
    first: _File,
    given: Mapping[str, Any] | None,
    atol: float,
    rtol: float,
    access: HubAccess,
    trusted: bool,
    progress: Progress | None,
) -> dict[str, ModuleComparison]:
    model = open_torch_model(first.path, record_if_any(first.path), first.graph.inputs, given, access, trusted)
    modules = first.modules()
    vanished: dict[str, list[str]] = defaultdict(list)
    for name in model.modules:
        if name not in modules:
            vanished[parent_of(name)].append(name)
    normed = {name for name in modules if vanished.get(parent_of(name))}
    weights = FileWeights(first.path, first.graph, first.assignment.modules)
    parameters = {name: model.parameters(name) for name in modules}
    compared = compare_with_parameters(weights, parameters, normed, atol, rtol)
    _note_weights(modules, without_derived(first.path, model.folder, compared))
    leaving = first.leaving.values
    values = first.values(model.feeds, [value for names in leaving.values() for value in names])
    for batch in _batches(list(leaving), progress):
        asked = [*batch, *(gone for name in batch for gone in vanished.get(parent_of(name), ()))]
        expected = model.returned(asked)
        found = values.values([value for name in batch for value in leaving[name]])
        for name in batch:
            others = {gone: expected.get(gone, []) for gone in vanished.get(parent_of(name), ())}
            arrays = {value: found[value] for value in leaving[name] if value in found}
            # Experts get their tokens in the order of a sort in which equal values have no fixed order.
            apart = distance_of_rows if EXPERTS in parent_of(name).split(".") else distance
            modules[name].values += _matched(
                arrays, expected.get(name, []), others, functools.partial(apart, atol=atol, rtol=rtol)
            )
        batch.used = sum(array.nbytes for array in found.values())
    return modules


def _matched(
    found: Mapping[str, Any],
    expected: Sequence[Any],
    others: Mapping[str, Sequence[Any]],
    apart: Callable[[Any, Any], Distance],
) -> Iterator[ValueComparison]:
    """Yield pairs of an output value of the file's module and the nearest one of PyTorch's, each used once.

    `found` are values of the file, `expected` those of PyTorch, and `apart` returns the distance of two arrays of one
    shape. `others` are values of other modules that the file does not have: a batch norm may be folded into this
    module.
    """
    pairs = sorted(
        (
            ((near := apart(array, tensor)).exceeded, near.norm, at, value, near)
            for at, tensor in enumerate(expected)
            for value, array in found.items()
            if array.shape == tensor.shape
        ),
        key=lambda pair: pair[:4],
    )
    tensors: set[int] = set()
    values: set[str] = set()
    for exceeded, _, at, value, near in pairs:  # The nearest pairs first. A model may also return its inputs.
        if at in tensors or value in values:
            continue
        # T5 returns a bias of zeros. In a graph for one row, the value of its shape is that bias with the mask.
        if exceeded and (tensor := expected[at]).size > 1 and (tensor == tensor.flat[0]).all():
            continue
        tensors.add(at)
        values.add(value)
        folded = _folded(found[value], others, apart) if exceeded else None
        yield ValueComparison(value, *(folded or (near, None)))


def _folded(
    array: Any, others: Mapping[str, Sequence[Any]], apart: Callable[[Any, Any], Distance]
) -> tuple[Distance, str | None] | None:
    """Return the distance to the nearest value of other modules, and that module; None without one."""
    for module, tensors in others.items():
        for tensor in tensors:
            if tensor.shape == array.shape and not (near := apart(array, tensor)).exceeded:
                return near, module
    return None


class _Batch(list[str]):
    """Modules that are compared together; the caller sets `used` to the bytes of their values."""

    used = 0


def _batches(names: Sequence[str], progress: Progress | None) -> Iterator[_Batch]:
    """Yield the modules in batches whose values, estimated from earlier batches, fit the budget."""
    start, count = 0, _FIRST
    while start < len(names):
        batch = _Batch(names[start : start + count])
        yield batch
        start += len(batch)
        if progress is not None:
            progress(start, len(names))
        each = max(batch.used // len(batch), 1)
        count = int(max(1, min(_BUDGET // each, 4 * count)))


def _modules_of(path: Path, graph: Graph, first: _File) -> tuple[str, ...]:
    """Return the modules of another file's nodes, from its tags or from the values' names."""
    tagged = tagged_assignment(read_header(path), graph)
    if tagged is not None and all(MODULE in node.metadata for node in graph.nodes):
        return tagged.modules
    tree = first.assignment.tree
    carried = assign_rewritten([Original(first.graph, first.assignment)], graph, ScopeResolver(tree), tree)
    if tagged is None:
        return carried.modules
    return tuple(node.metadata.get(MODULE, module) for node, module in zip(graph.nodes, carried.modules, strict=True))


def _note_structure(modules: dict[str, ModuleComparison], first: _File, graph: Graph, theirs: Sequence[str]) -> None:
    counts = []
    for nodes, homes in ((first.graph.nodes, first.assignment.modules), (graph.nodes, theirs)):
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for node, home in zip(nodes, homes, strict=True):
            if node.op_type != "Constant":  # Exporters write the same constants as nodes or as initializers.
                found[home][node.op_type] += 1
        counts.append(found)
    ours, others = counts
    for name in dict.fromkeys([*ours, *others]):
        operators = {
            operator: (ours[name][operator], others[name][operator])
            for operator in sorted({*ours[name], *others[name]})
            if ours[name][operator] != others[name][operator]
        }
        module = modules.setdefault(name, ModuleComparison(name, first.assignment.tree.classes.get(name, "")))
        module.operators = operators


def _note_weights(modules: dict[str, ModuleComparison], found: Mapping[str, Sequence[WeightComparison]]) -> None:
    for name, weights in found.items():
        if name in modules:
            modules[name].weights += weights


def _note_added(modules: Mapping[str, ModuleComparison], leaving: Leaving) -> None:
    """Set for each innermost module the increase of the difference from its inputs to its outputs."""
    norms = {value.name: value.distance.norm for module in modules.values() for value in module.values}
    holders = {parent_of(name) for name in leaving.values if name != ROOT}
    while new := {parent_of(name) for name in holders if name} - holders:
        holders |= new
    for name, module in modules.items():
        if name not in holders and module.values:
            before = max((norms.get(value, 0.0) for value in leaving.entering.get(name, ())), default=0.0)
            after = max(value.distance.norm for value in module.values)
            module.added = 0.0 if after <= before else after - before
