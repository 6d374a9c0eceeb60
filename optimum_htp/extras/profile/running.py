"""Measures the time of each module of a tagged file in ONNX Runtime.

ONNX Runtime first optimizes the graph and writes it to a temporary folder. The modules are assigned to the optimized
nodes. The profiler of ONNX Runtime then runs this graph without further optimization, and names the timed nodes.
"""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from optimum_htp.errors import OptimumHTPError
from optimum_htp.hierarchy.assign import Assignment
from optimum_htp.hierarchy.rewritten import Original, assign_rewritten
from optimum_htp.hierarchy.scopes import ScopeResolver
from optimum_htp.hierarchy.tags import read_modules
from optimum_htp.onnxfile import Graph, contained_files, read_graph
from optimum_htp.onnxfile.unchanged import unchanged
from optimum_htp.parsing import parse_json
from optimum_htp.profiling.inputs import sample_inputs

__all__ = ["Profile", "ProfileError", "profile_file"]

_LARGEST_PROFILE: Final = 1 << 40  # bytes; written by ONNX Runtime, so trusted
_KERNEL: Final = "_kernel_time"
_NODE: Final = "Node"


class ProfileError(OptimumHTPError):
    """ONNX Runtime cannot run a file on the generated inputs."""


@dataclass(frozen=True)
class Profile:
    """Times of the nodes of a file.

    Attributes:
        graph: The graph that ran, optimized unless `optimize` was False.
        assignment: The modules of its nodes.
        microseconds: Mean time of each node, by its index. The time of a node with subgraphs excludes their nodes.
        total: Time of all nodes, in microseconds.
        runs: Number of timed runs; fewer than requested if the profiler recorded fewer.
        provider: The execution provider.
        shapes: Shapes of the inputs, by name.
    """

    graph: Graph
    assignment: Assignment
    microseconds: Mapping[int, float]
    total: float
    runs: int
    provider: str
    shapes: Mapping[str, Sequence[int]]


def profile_file(
    path: str | os.PathLike[str],
    *,
    runs: int = 10,
    warmup: int = 2,
    provider: str = "CPUExecutionProvider",
    optimize: bool = True,
    threads: int = 0,
    **shapes: int,
) -> Profile:
    """Run a tagged file with the profiler of ONNX Runtime.

    Args:
        path: The file.
        runs: Number of timed runs.
        warmup: Number of runs before the timed runs.
        provider: Execution provider of ONNX Runtime.
        optimize: Whether ONNX Runtime optimizes the graph, as by default.
        threads: Threads per operator; 0 for the default of ONNX Runtime.
        **shapes: Sizes of the inputs, by Optimum's names (`batch_size`, `sequence_length`, ...).

    Raises:
        InvalidOnnxFileError: The file has external data outside its folder.
        FileChangedError: The file or its data changed during the call.
        MetadataError: The file has no tags.
        ProfileError: The file cannot run on the generated inputs, or `runs`, `warmup` or `provider` is invalid.
    """
    if runs < 1 or warmup < 0:
        raise ProfileError(f"{path} cannot be timed: runs={runs} must be at least 1, and warmup={warmup} at least 0.")
    import onnxruntime

    if provider not in onnxruntime.get_available_providers():
        raise ProfileError(
            f"Execution provider {provider} is not available. Pass --provider "
            f"{' or '.join(onnxruntime.get_available_providers())}, or install the onnxruntime package that has it."
        )
    path = Path(path)
    with unchanged(path), tempfile.TemporaryDirectory(prefix="optimum-htp-profile-") as folder:
        data = contained_files(path)  # earlier versions of ONNX Runtime do not check locations
        before, tags = read_modules(path)
        running, graph, assignment = path, before, tags
        if optimize:
            running = Path(folder, "optimized.onnx")
            _write_optimized(path, running, provider, external=bool(data))
            graph = read_graph(running)
            assignment = assign_rewritten([Original(before, tags)], graph, ScopeResolver(tags.tree), tags.tree)
        feeds = sample_inputs(path, shapes)
        try:
            session = _session(running, provider, Path(folder, "profile"), threads)
            for _ in range(warmup + runs):
                session.run(None, feeds)
        except Exception as error:
            if not type(error).__module__.startswith("onnxruntime"):
                raise
            given = ", ".join(f"{name} {list(values.shape)}" for name, values in feeds.items())
            raise ProfileError(
                f"ONNX Runtime cannot run {path} on {given}: {error} Pass the right sizes, for example with "
                "--sequence-length or --height."
            ) from error
        events = parse_json(Path(session.end_profiling()).read_bytes(), _LARGEST_PROFILE)
    recorded = len(_model_runs(events)) - warmup
    if recorded < 1:
        raise ProfileError(
            f"The profiler of ONNX Runtime recorded only {recorded + warmup} of {warmup + runs} runs of {path}. Pass "
            "lower numbers with --runs and --warmup."
        )
    timed = _by_node(events, graph, warmup, runs)
    return Profile(
        graph=graph,
        assignment=assignment,
        microseconds=timed,
        total=sum(timed.values()),
        runs=recorded,
        provider=provider,
        shapes={name: list(values.shape) for name, values in feeds.items()},
    )


def _write_optimized(path: Path, target: Path, provider: str, *, external: bool) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = os.fspath(target)
    options.log_severity_level = 3  # no warning that the optimized file is for this machine only
    if external or path.stat().st_size > 1 << 30:
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights.bin")
    try:
        onnxruntime.InferenceSession(os.fspath(path), options, providers=[provider])
    except Exception as error:
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        raise ProfileError(f"ONNX Runtime cannot load {path}: {error}") from error


def _session(path: Path, provider: str, prefix: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling = True
    options.profile_file_prefix = os.fspath(prefix)
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(os.fspath(path), options, providers=[provider])


def _by_node(events: Sequence[Mapping[str, Any]], graph: Graph, warmup: int, runs: int) -> dict[int, float]:
    """Return the mean time of each node, in microseconds, from the profiler's events.

    The event of a node includes the nodes of its subgraphs; their time is subtracted. The profiler has a limit of
    events and drops later ones, so only complete runs are counted.
    """
    kernels = [event for event in events if event.get("cat") == _NODE and str(event.get("name", "")).endswith(_KERNEL)]
    counted = _model_runs(events)[warmup:][:runs]
    first, last = (counted[0][0], counted[-1][1]) if counted else (0, -1)
    kernels = [event for event in kernels if first <= int(event["ts"]) <= last]
    indexes: dict[str, list[int]] = defaultdict(list)
    for index, node in enumerate(graph.nodes):
        indexes[node.name].append(index)
    # ONNX Runtime converts constants to initializers before it numbers the nodes of a graph.
    numbered = [index for index, node in enumerate(graph.nodes) if not node.within and node.op_type != "Constant"]
    spent: dict[int, float] = defaultdict(float)
    for event, own, is_inside in _own_times(kernels):
        known = indexes.get(str(event["name"]).removesuffix(_KERNEL)) or _candidates(graph, event, is_inside)
        number = str(event.get("args", {}).get("node_index", ""))
        if not is_inside and number.isdecimal() and int(number) < len(numbered) and numbered[int(number)] in known:
            known = [numbered[int(number)]]
        for index in known:  # nodes with the same name (branches of a merged decoder) share the time
            spent[index] += own / len(known) / len(counted)
    return dict(spent)


def _candidates(graph: Graph, event: Mapping[str, Any], is_inside: bool) -> list[int]:
    """Return candidates for a node without a name: nodes of its operator, inside or outside of subgraphs."""
    operator = event.get("args", {}).get("op_name")
    found = [index for index, node in enumerate(graph.nodes) if node.op_type == operator]
    return [index for index in found if bool(graph.nodes[index].within) == is_inside] or found


def _model_runs(events: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """Return start and end of each recorded run, in microseconds."""
    return sorted((int(event["ts"]), _end(event)) for event in events if event.get("name") == "model_run")


def _end(event: Mapping[str, Any]) -> int:
    return int(event["ts"]) + int(event["dur"])


def _own_times(kernels: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], float, bool]]:
    """Return each event with its duration, minus the events inside it on the same thread.

    The last value is whether it is inside another event.
    """
    own, inside = {id(kernel): float(kernel["dur"]) for kernel in kernels}, set()
    threads: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for kernel in kernels:
        threads[kernel.get("pid"), kernel.get("tid")].append(kernel)
    for events in threads.values():
        enclosing: list[Mapping[str, Any]] = []
        for event in sorted(events, key=lambda event: (int(event["ts"]), -int(event["dur"]))):
            while enclosing and (_end(enclosing[-1]) < _end(event) or _end(enclosing[-1]) <= int(event["ts"])):
                enclosing.pop()
            if enclosing:
                own[id(enclosing[-1])] -= float(event["dur"])
                inside.add(id(event))
            enclosing.append(event)
    return [(kernel, own[id(kernel)], id(kernel) in inside) for kernel in kernels]
