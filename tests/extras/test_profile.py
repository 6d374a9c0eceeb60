"""The time of each module in ONNX Runtime: the sum of its nodes' times in the profile."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimum_htp import HTPExporter
from optimum_htp.extras.profile import running as profile
from optimum_htp.extras.profile.running import ProfileError, _by_node, profile_file
from optimum_htp.hierarchy.summary import summarize
from optimum_htp.onnxfile import Graph, Node, read_graph, read_signature
from optimum_htp.profiling.inputs import InputSizeError, sample_inputs
from tests.conftest import optimum_cli
from tests.support.zoo import DEMANDING, ZOO

FILES = {
    "bert": "model.onnx",
    "gpt2": "model.onnx",
    "swin": "model.onnx",
    "hubert": "model.onnx",
    "clip": "model.onnx",
    "t5": "decoder_model_merged.onnx",
    "whisper": "decoder_with_past_model.onnx",
    "electra": "model.onnx",
    "pix2struct": "decoder_model_merged.onnx",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_modules_add_up_to_all_nodes(name, zoo_export):
    profile = profile_file(zoo_export(name).output / FILES[name], runs=2, warmup=1)
    modules = summarize(profile.graph, profile.assignment, profile.microseconds)
    assert profile.total > 0
    assert sum(one.own_microseconds for one in modules.values()) == pytest.approx(profile.total)
    assert modules[""].microseconds == pytest.approx(profile.total)
    assert modules[""].class_name == ZOO[name].model


@pytest.mark.slow
@pytest.mark.parametrize("name", DEMANDING)
def test_inputs_are_those_that_the_model_needs(name, tmp_path):
    animal = DEMANDING[name]
    result = HTPExporter().export(animal.save(tmp_path / "model"), tmp_path / "out", task=animal.task)
    for path in result.files:
        profile = profile_file(path, runs=1, warmup=0)
        assert profile.total > 0
        assert set(profile.shapes) == {spec.name for spec in read_signature(path)[0]}


def recorded(path, inputs, runs, folder):
    """Return ONNX Runtime's own profile of runs of an unoptimized graph."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = onnxruntime.InferenceSession(str(path), options)
    for _ in range(runs):
        session.run(None, inputs)
    return json.loads(Path(session.end_profiling()).read_text())


def test_total_is_the_profilers_own(zoo_export, tmp_path):
    path = zoo_export("bert").output / "model.onnx"
    profile = profile_file(path, runs=3, warmup=0, optimize=False)
    events = recorded(path, sample_inputs(path), 4, tmp_path)
    kernels = [one for one in events if one.get("cat") == "Node" and one["name"].endswith("_kernel_time")]
    assert len(kernels) == 4 * len({one["name"] for one in kernels})
    ours = _by_node(events, profile.graph, 0, 4)
    assert sum(ours.values()) == pytest.approx(sum(one["dur"] for one in kernels) / 4)
    timed = {one["name"] for one in kernels}
    assert {f"{profile.graph.nodes[index].name}_kernel_time" for index in ours} == timed


def test_fused_nodes_are_attributed(zoo_export):
    profile = profile_file(zoo_export("bert").output / "model.onnx", runs=1, warmup=0)
    fused = [index for index, node in enumerate(profile.graph.nodes) if node.op_type == "BiasGelu"]
    assert fused
    modules = {profile.assignment.modules[index] for index in fused}
    assert "bert.encoder.layer.0.intermediate" in modules


def test_time_of_a_subgraph_is_counted_once():
    events = [
        {"cat": "Session", "name": "model_run", "ts": 0, "dur": 100},
        {"cat": "Node", "name": "if_kernel_time", "ts": 1, "dur": 50, "tid": 1, "args": {"op_name": "If"}},
        {"cat": "Node", "name": "inner_kernel_time", "ts": 5, "dur": 20, "tid": 1, "args": {"op_name": "Add"}},
        {"cat": "Node", "name": "after_kernel_time", "ts": 60, "dur": 7, "tid": 1, "args": {"op_name": "Mul"}},
    ]
    kinds = {"if": "If", "inner": "Add", "after": "Mul"}
    graph = Graph(nodes=tuple(Node(name, kind, "", (), (), {}) for name, kind in kinds.items()))
    assert _by_node(events, graph, 0, 1) == {0: 30.0, 1: 20.0, 2: 7.0}


def test_nodes_without_names_are_matched_by_index(tmp_path):
    """ONNX Runtime renames nodes and records the original node; constants have none."""
    large, small = (
        numpy_helper.from_array(np.ones(shape, "f"), name) for shape, name in (((512, 512), "l"), ((512,), "s"))
    )
    made = [
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.ones(1, "f"))),
        helper.make_node("MatMul", ["x", "l"], ["a"]),
        helper.make_node("Mul", ["a", "s"], ["b"]),
        helper.make_node("Sub", ["b", "c"], ["y"]),
    ]
    sides = (helper.make_tensor_value_info("x", 1, [256, 512]),), (helper.make_tensor_value_info("y", 1, [256, 512]),)
    graph = helper.make_graph(made, "g", *sides, [large, small])
    path = tmp_path / "nameless.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    events = recorded(path, {"x": np.ones((256, 512), "f")}, 3, tmp_path)
    times = _by_node(events, read_graph(path), 0, 3)
    spent = {
        kind: sum(event["dur"] for event in events if event.get("args", {}).get("op_name") == kind) / 3
        for kind in ("MatMul", "Mul", "Sub")
    }
    assert times == pytest.approx({1: spent["MatMul"], 2: spent["Mul"], 3: spent["Sub"]})
    assert all(spent.values())


def _events(runs, kernels_of_the_next=0):
    """A profile of runs that take 10, 20, ... microseconds; the last one is cut off after some kernels."""
    events, now = [], 0
    for run in range(1, runs + 1):
        events.append({"cat": "Node", "name": "a_kernel_time", "ts": now + 1, "dur": 10 * run, "tid": 1})
        events.append({"cat": "Session", "name": "model_run", "ts": now, "dur": 10 * run + 5})
        now += 10 * run + 10
    events += [{"cat": "Node", "name": "a_kernel_time", "ts": now + 1, "dur": 1000, "tid": 1}] * kernels_of_the_next
    return events


def test_runs_that_the_profiler_dropped_count_nothing():
    graph = Graph(nodes=(Node("a", "Add", "", (), (), {}),))
    assert _by_node(_events(5), graph, 2, 3) == {0: 40.0}  # 30, 40, 50
    assert _by_node(_events(4), graph, 2, 3) == {0: 35.0}  # 30, 40
    assert _by_node(_events(4, kernels_of_the_next=1), graph, 2, 3) == {0: 35.0}
    assert _by_node(_events(2), graph, 2, 3) == {}  # only the warm-up


@pytest.mark.slow
def test_runs_that_the_profiler_did_not_record_to_their_end_do_not_count(tmp_path):
    """ONNX Runtime keeps a million events. Here the last run and half of the previous one are missing."""
    path = _tiny(tmp_path / "m.onnx", nodes=10)
    session = profile._session(path, "CPUExecutionProvider", tmp_path / "profile", 1)
    for _ in range(5):
        session.run(None, {"x": np.ones(2, "float32")})
    events = json.loads(Path(session.end_profiling()).read_text())
    ends = sorted(int(event["ts"]) + int(event["dur"]) for event in events if event["name"] == "model_run")
    kept = [event for event in events if int(event["ts"]) + int(event["dur"]) <= ends[3] - 1]
    assert (len(profile._model_runs(events)), len(profile._model_runs(kept))) == (5, 3)
    graph = read_graph(path)
    times = profile._by_node(kept, graph, warmup=2, runs=3)
    assert times == profile._by_node(events, graph, warmup=2, runs=1)
    assert len(times) == 10


@pytest.mark.parametrize(("runs", "warmup"), [(0, 2), (-1, 0), (1, -1)])
def test_invalid_numbers_of_runs_are_rejected(runs, warmup, tmp_path):
    with pytest.raises(ProfileError, match="cannot be timed"):
        profile_file(_tiny(tmp_path / "m.onnx"), runs=runs, warmup=warmup)


@pytest.mark.parametrize("shape", [[1 << 40], [1 << 20, 1 << 20], [-4]])
def test_inputs_that_no_machine_holds_are_refused(shape, tmp_path):
    with pytest.raises(InputSizeError, match="'x' has the shape"):
        sample_inputs(_tiny(tmp_path / "m.onnx", shape))


def _tiny(path, shape=(2,), nodes=1):
    """Write a tagged model of a chain of nodes."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    names = ["x", *(f"v{index}" for index in range(1, nodes)), "y"]
    chain = [helper.make_node("Relu", [a], [b], name=f"to_{b}") for a, b in itertools.pairwise(names)]
    graph = helper.make_graph(chain, "g", values[:1], values[1:])
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    helper.set_model_props(model, {"htp.modules": '{"": "Model"}'})
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.slow
def test_command(zoo_export, tmp_path):
    file = zoo_export("bert").output / "model.onnx"
    options = ("--runs", "2", "--batch_size", "1", "--sequence_length", "5")
    done = optimum_cli("htp", "profile", file, *options, "--depth", "2", "-o", tmp_path / "report.json")
    assert "input_ids [1, 5]" in done.stdout
    assert "BertEncoder" in done.stdout
    report = json.loads((tmp_path / "report.json").read_text())["files"][0]
    assert report["timed"]
    assert sum(node["microseconds"] for node in report["nodes"]) == pytest.approx(report["modules"][0]["microseconds"])
    content = json.loads(optimum_cli("htp", "profile", file, *options, "--json").stdout)
    assert content["modules"][0]["microseconds"] == pytest.approx(content["total_microseconds"])


def test_inputs_that_do_not_fit_are_named(zoo_export):
    with pytest.raises(ProfileError, match=r"(?s)pixel_values \[2, 3, 7, 7\].*--height"):
        profile_file(zoo_export("swin").output / "model.onnx", height=7, width=7)


def test_missing_provider_is_named(zoo_export):
    with pytest.raises(ProfileError, match="NoSuchProvider is not available"):
        profile_file(zoo_export("bert").output / "model.onnx", provider="NoSuchProvider")
