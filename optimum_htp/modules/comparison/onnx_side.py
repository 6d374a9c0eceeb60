"""Inner values of an ONNX file: which values leave its modules, and their computation.

For this, the model gets more outputs. ONNX Runtime computes a few of them at a time.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from optimum_htp.errors import ComparisonError
from optimum_htp.hierarchy.assign import Assignment
from optimum_htp.hierarchy.parts import part_tree
from optimum_htp.hierarchy.scopes import ScopeResolver, is_called_inside, scope_of
from optimum_htp.hierarchy.tree import ROOT, ancestors, is_inside
from optimum_htp.onnxfile import Graph, contained_files, read_without_weights
from optimum_htp.onnxfile.operators import RANDOM
from optimum_htp.onnxfile.wire import encode_bytes_field
from optimum_htp.profiling import DATA_FOLDER, can_map_weights

__all__ = ["Leaving", "OnnxValues", "leaving_values", "read_arrays", "refuse_random"]

_GRAPH: Final = 7  # Field of ModelProto.
_OUTPUT: Final = 12  # Field of GraphProto.
_NAME: Final = 1  # Field of ValueInfoProto.


class OnnxValues:
    """Runs a file on some inputs.

    Unknown inputs are ignored. `wanted` are inner values that will be requested, `known` the file's own outputs.

    Raises:
        ComparisonError: ONNX Runtime does not load the file, or inputs are missing.
        InvalidOnnxFileError: The file has external data outside its folder.
    """

    def __init__(self, path: Path, feeds: Mapping[str, Any], wanted: Sequence[str], known: Sequence[str]) -> None:
        import onnxruntime

        # Protobuf readers merge a message that occurs twice, so the graph gets outputs without a change of its bytes.
        outputs = b"".join(
            encode_bytes_field(_OUTPUT, encode_bytes_field(_NAME, value.encode()))
            for value in dict.fromkeys(wanted)
            if value not in known
        )
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        external = contained_files(path)
        # Weights are mapped, not copied.
        lean = read_without_weights(path) if can_map_weights() and not external else None
        options.add_session_config_entry(DATA_FOLDER, str(path.resolve().parent if external or lean else path.parent))
        content = path.read_bytes() if lean is None else lean.content
        try:
            self._session = onnxruntime.InferenceSession(
                content + encode_bytes_field(_GRAPH, outputs), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            if not type(error).__module__.startswith("onnxruntime"):
                raise
            raise ComparisonError(f"ONNX Runtime does not load {path}: {error}") from error
        self._path = path
        taken = {given.name for given in self._session.get_inputs()}
        if missing := sorted(taken - feeds.keys()):
            raise ComparisonError(
                f"{path} has inputs without values: {', '.join(missing)}. Pass a .npz file with them: --inputs FILE."
            )
        self._feeds = {name: feeds[name] for name in taken}
        self._outputs = {given.name for given in self._session.get_outputs()}

    def values(self, names: Sequence[str]) -> dict[str, Any]:
        """Return values by name; only tensors of floats.

        Raises:
            ComparisonError: ONNX Runtime does not run the file on these inputs.
        """
        asked = [name for name in dict.fromkeys(names) if name in self._outputs]
        if not asked:
            return {}
        try:
            found = self._session.run(asked, self._feeds)
        except Exception as error:
            if not type(error).__module__.startswith("onnxruntime"):
                raise
            raise ComparisonError(f"{self._path} does not run on these inputs: {error}") from error
        pairs = zip(asked, found, strict=True)
        return {name: array for name, array in pairs if getattr(getattr(array, "dtype", None), "kind", "") == "f"}


def refuse_random(path: Path, graph: Graph, modules: Sequence[str]) -> None:
    """Reject a model whose values differ between runs.

    Raises:
        ComparisonError: A node generates random numbers.
    """
    for node, module in zip(graph.nodes, modules, strict=True):
        if node.op_type in RANDOM:
            raise ComparisonError(
                f"{path} generates random numbers ({node.op_type} in {module or 'the model'}), so two runs of it "
                "cannot be compared. `optimum-cli htp verify --weights` compares its weights."
            )


@dataclass(frozen=True)
class Leaving:
    """The values that cross the borders of modules.

    Attributes:
        values: For each module, in order of execution, its output values, in the order of their computation. Values
            inside branches of a graph are left out, because they cannot be outputs of the graph.
        entering: For each module its input values.
    """

    values: Mapping[str, Sequence[str]]
    entering: Mapping[str, Sequence[str]]


def leaving_values(graph: Graph, assignment: Assignment) -> Leaving:
    """Return the output values of each module. A module is placed where the last of its values is computed."""
    chains = _chains(graph, assignment)
    users: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for node, chain in zip(graph.nodes, chains, strict=True):
        for value in node.inputs:
            users[value].add(chain)
    given = {spec.name for spec in graph.outputs}
    makers: dict[str, tuple[str, ...]] = {}
    values: dict[str, list[str]] = {}
    for node, chain in zip(graph.nodes, chains, strict=True):
        if node.within or node.op_type == "Constant":
            continue
        for value in node.outputs:
            if not value:
                continue
            makers[value] = chain
            for around in chain:
                if value in given or around == ROOT or any(around not in user for user in users[value]):
                    if around == ROOT and value not in given:
                        continue
                    values[around] = [*values.pop(around, ()), value]  # Move it to the end.
    entering: dict[str, dict[str, None]] = defaultdict(dict)
    for node, chain in zip(graph.nodes, chains, strict=True):
        for value in node.inputs:
            if value in makers:
                for around in chain:
                    if around not in makers[value]:
                        entering[around][value] = None
    return Leaving(values, {module: list(known) for module, known in entering.items()})


def _chains(graph: Graph, assignment: Assignment) -> list[tuple[str, ...]]:
    """Return for each node the modules whose calls contain it, from the innermost on."""
    tree = part_tree(graph, assignment.tree)
    root = tree.names.get(ROOT, ROOT)
    resolver = ScopeResolver(tree)
    known: dict[tuple[str, tuple[str, ...] | None], tuple[str, ...]] = {}
    chains = []
    for node, module in zip(graph.nodes, assignment.modules, strict=True):
        key = module, scope_of(node.name)
        if key not in known:
            scope = key[1]
            around = [
                outer
                for outer in ancestors(module)
                if scope is None
                or is_inside(root, outer)
                or is_called_inside(resolver, tree, scope, outer) is not False
            ]
            known[key] = (module, *around)
        chains.append(known[key])
    return chains


def read_arrays(inputs: str | os.PathLike[str] | Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return inputs by name, read from an `.npz` file if a path is given."""
    if inputs is None or isinstance(inputs, Mapping):
        return inputs
    import numpy as np

    try:
        with np.load(inputs, allow_pickle=False) as loaded:
            return dict(loaded)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ComparisonError(
            f"{os.fspath(inputs)} is not a .npz file of arrays. Write one with numpy.savez."
        ) from error
