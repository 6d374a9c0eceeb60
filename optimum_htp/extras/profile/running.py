"""The time that each module of a tagged file takes in ONNX Runtime.

ONNX Runtime optimises the graph first. The optimised graph is written to a temporary folder, its nodes get their
modules carried over, and it is this graph that runs under ONNX Runtime's profiler, as it is. The profiler names
the nodes that it timed.
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

_LARGEST_PROFILE: Final = 1 << 40  # bytes; ONNX Runtime wrote it
_KERNEL: Final = "_kernel_time"
_NODE: Final = "Node"


class ProfileError(OptimumHTPError):
    """ONNX Runtime cannot run a file on the inputs that were made for it."""


@dataclass(frozen=True)
class Profile:
    """What a run took.

    Attributes:
        graph: The graph that ran: optimised, unless that was forbidden.
        assignment: The modules of its nodes.
        microseconds: Time of each node, by its index: the mean of the runs. That of a node with subgraphs is without
            the nodes inside.
        total: Of all nodes, in microseconds.
        runs: How many runs were timed: those that were asked for, or as many as the profiler could record.
        provider: What ran it.
        shapes: Of the inputs, by name.
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
    """Run a tagged file under ONNX Runtime's profiler.

    Args:
        path: The file.
        runs: Runs that are timed.
        warmup: Runs before those.
        provider: Execution provider of ONNX Runtime.
        optimize: Whether ONNX Runtime may optimise the graph, as it does by default.
        threads: Of one operator; 0 for ONNX Runtime's choice.
        **shapes: Sizes of the inputs, by Optimum's names (`batch_size`, `sequence_length`, ...).

    Raises:
        InvalidOnnxFileError: The file keeps data outside its folder.
        FileChangedError: The file or its data was replaced meanwhile.
        MetadataError: It has no tags.
        ProfileError: It cannot be run on the inputs that were made, or the numbers of runs are none.
    """
    if runs < 1 or warmup < 0:
        raise ProfileError(f"{path} cannot be timed in {runs} runs after {warmup}: give --runs of 1 or more.")
    import onnxruntime

    if provider not in onnxruntime.get_available_providers():
        raise ProfileError(
            f"{provider} is not here ({', '.join(onnxruntime.get_available_providers())}): install the onnxruntime "
            "that has it."
        )
    path = Path(path)
    with unchanged(path), tempfile.TemporaryDirectory(prefix="optimum-htp-profile-") as folder:
        data = contained_files(path)  # earlier versions of ONNX Runtime follow a location wherever it leads
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
                f"ONNX Runtime cannot run {path} on {given}: {error} Give the sizes that it takes, such as "
                "--sequence_length or --height."
            ) from error
        events = parse_json(Path(session.end_profiling()).read_bytes(), _LARGEST_PROFILE)
    recorded = _recorded(events, warmup)
    if recorded < 1:
        raise ProfileError(
            f"ONNX Runtime's profiler recorded only {recorded + warmup} of {warmup + runs} runs of {path}: ask for "
            "fewer with --runs and --warmup."
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
    options.log_severity_level = 3  # that the file fits this machine alone is known
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

    A node's event covers those of the nodes in its subgraphs, whose time is taken off. The profiler keeps a number of
    events and drops what comes after; only runs that it recorded to their end count.
    """
    kernels = [event for event in events if event.get("cat") == _NODE and str(event.get("name", "")).endswith(_KERNEL)]
    counted = _model_runs(events)[warmup:][:runs]
    first, last = (counted[0][0], counted[-1][1]) if counted else (0, -1)
    kernels = [event for event in kernels if first <= int(event["ts"]) <= last]
    indexes: dict[str, list[int]] = defaultdict(list)
    for index, node in enumerate(graph.nodes):
        indexes[node.name].append(index)
    # ONNX Runtime makes initializers of constants before it counts the nodes of a graph.
    places = [index for index, node in enumerate(graph.nodes) if not node.within and node.op_type != "Constant"]
    spent: dict[int, float] = defaultdict(float)
    for event, own, is_inside in _own_times(kernels):
        known = indexes.get(str(event["name"]).removesuffix(_KERNEL)) or _alike(graph, event, is_inside)
        place = str(event.get("args", {}).get("node_index", ""))
        if not is_inside and place.isdecimal() and int(place) < len(places) and places[int(place)] in known:
            known = [places[int(place)]]
        for index in known:  # nodes of one name (the branches of a merged decoder) share
            spent[index] += own / len(known) / len(counted)
    return dict(spent)


def _alike(graph: Graph, event: Mapping[str, Any], is_inside: bool) -> list[int]:
    """Return the nodes that a nameless one may be: those of its operator, in subgraphs or not in any."""
    operator = event.get("args", {}).get("op_name")
    found = [index for index, node in enumerate(graph.nodes) if node.op_type == operator]
    return [index for index in found if bool(graph.nodes[index].within) == is_inside] or found


def _model_runs(events: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """Return start and end of each run that the profiler recorded, in microseconds."""
    found = (event for event in events if event.get("name") == "model_run")
    return sorted((int(run["ts"]), int(run["ts"]) + int(run["dur"])) for run in found)


def _recorded(events: Sequence[Mapping[str, Any]], warmup: int) -> int:
    """Return how many runs behind those for warming up the profiler recorded; negative where it has not even these."""
    return len(_model_runs(events)) - warmup


def _own_times(kernels: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], float, bool]]:
    """Return each event with its duration without those of events inside it on the same thread.

    The last value tells whether it is inside another event itself.
    """
    own, inside = {id(kernel): float(kernel["dur"]) for kernel in kernels}, set()
    threads: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for kernel in kernels:
        threads[kernel.get("pid"), kernel.get("tid")].append(kernel)
    for events in threads.values():
        around: list[Mapping[str, Any]] = []
        for event in sorted(events, key=lambda event: (int(event["ts"]), -int(event["dur"]))):
            while around and int(around[-1]["ts"]) + int(around[-1]["dur"]) < int(event["ts"]) + int(event["dur"]):
                around.pop()
            while around and int(around[-1]["ts"]) + int(around[-1]["dur"]) <= int(event["ts"]):
                around.pop()
            if around:
                own[id(around[-1])] -= float(event["dur"])
                inside.add(id(event))
            around.append(event)
    return [(kernel, own[id(kernel)], id(kernel) in inside) for kernel in kernels]
