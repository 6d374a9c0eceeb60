"""Small files with names that would take hours and gigabytes: refused or read, in seconds and little memory."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import time

import onnx
import pytest
from onnx import TensorProto, helper

from optimum_htp.errors import MetadataError, MismatchError
from optimum_htp.hierarchy.summary import summarize
from optimum_htp.hierarchy.tags import read_modules
from optimum_htp.onnxfile import read_graph, read_header
from optimum_htp.report.document import report_document
from optimum_htp.report.outline import outline
from optimum_htp.stamping.tag import Tagger
from tests.support.environments import python_of_users

CLI = python_of_users().with_name("optimum-cli")
MEMORY = 2 << 30  # bytes of address space, mostly for libraries
SECONDS = 20  # seconds, also on a busy machine; the faults took minutes, or did not end


def htp(*arguments):
    """Run a command of this package with limited memory and time."""
    return subprocess.run(
        [CLI, "htp", *map(str, arguments)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )


def save(path, nodes, *, modules=None, metadata=None, initializers=("w",)):
    """Write a model of these nodes with the tags in `modules`."""
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    weights = [helper.make_tensor(name, TensorProto.FLOAT, [2], [0.0, 1.0]) for name in initializers]
    graph = helper.make_graph(nodes, "g", [], [value], weights)
    model = helper.make_model(graph, ir_version=10)
    for node, module in zip(model.graph.node, modules or (), strict=False):
        helper.set_model_props(node, {"htp.module": module})
    helper.set_model_props(model, metadata or {})
    path.write_bytes(model.SerializeToString())
    return path


def identity(name="", source="w", target="y"):
    return helper.make_node("Identity", [source], [target], name=name)


LONG = "a" + ".a" * 100_000
DEEP = ".".join(["a"] * 1_000)
NAMES = {
    "long": LONG,
    "deep": DEEP,
    "digits": ".0" * 100_000,
    "dots": "." * 100_000,
    "wide": "x" * 1_000_000,
}


def options(command, path):
    return {"info": ["--tree"], "report": ["-o", path.with_name("r.md")], "tag": ["--dry-run"]}[command]


EACH = [(command, [name]) for command in ("report", "tag") for name in NAMES]


@pytest.mark.parametrize(("command", "names"), [("info", list(NAMES)), *EACH])  # info shows all files in one process
def test_module_names_beyond_bounds_are_refused_with_file_and_node(command, names, tmp_path):
    paths = [save(tmp_path / f"{name}.onnx", [identity(f"{name}_node")], modules=[NAMES[name]]) for name in names]
    source = ["--from", *paths] if command == "tag" else []
    done = htp(command, *paths, *options(command, tmp_path / "x"), *source)
    assert done.returncode == 1, done.stderr
    for name in names:
        (line,) = [line for line in done.stderr.splitlines() if f"{name}.onnx" in line]
        assert f"{name}_node" in line
        assert len(line) < 1000
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "r.md").exists()


@pytest.mark.parametrize(("command", "names"), [("info", list(NAMES)), ("tag", list(NAMES)), *EACH[: len(NAMES)]])
def test_listed_modules_beyond_bounds_are_refused_with_file_and_key(command, names, tmp_path):
    paths = []
    for name in names:
        metadata = {"htp.modules": json.dumps({"": "Model", NAMES[name]: "Linear"})}
        paths.append(save(tmp_path / f"{name}.onnx", [identity()], metadata=metadata))
    done = htp(command, *paths, *options(command, tmp_path / "x"))
    assert done.returncode == 1, done.stderr
    for name in names:
        (line,) = [line for line in done.stderr.splitlines() if f"{name}.onnx" in line]
        assert "htp.modules" in line
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("class_name", ["C" * 1_000_000])
def test_class_names_beyond_bounds_are_refused(class_name, tmp_path):
    path = save(tmp_path / "m.onnx", [identity()], metadata={"htp.modules": json.dumps({"": class_name})})
    with pytest.raises(MetadataError, match=r"m\.onnx.*htp\.modules contains the class"):
        read_modules(path)


@pytest.mark.parametrize(
    "name",
    ["/" + "a/" * 2_000 + "MatMul", "/" + ".0" * 100_000 + "/MatMul", "/a" + ".0" * 2_000 + "/MatMul", "/" * 100_000],
    ids=["pieces", "numbers", "indices", "empty"],
)
def test_scopes_beyond_bounds_are_none(name, tmp_path):
    path = save(tmp_path / "m.onnx", [identity(name)])
    done = htp("tag", path)
    assert done.returncode == 1
    assert "None of the 1 nodes has a name that contains a module" in done.stderr
    assert len(done.stderr) < 1000


def test_deepest_names_within_bounds_are_read(tmp_path):
    name = ".".join(["block", "0"] * 32)
    metadata = {"htp.modules": json.dumps({"": "Model", name: "Linear"})}
    path = save(tmp_path / "m.onnx", [identity()], modules=[name], metadata=metadata)
    assert "Linear" in htp("info", path, "--tree").stdout
    (file,) = report_document([path])["files"]
    assert [one["name"] for one in file["modules"]] == ["", name]
    assert file["modules"][0]["nodes"] == 1


@pytest.mark.parametrize("count", [100, 5_000])
def test_values_that_feed_themselves_are_looked_at_once(count, tmp_path):
    nodes = [identity(f"n{index}", "w", "w") for index in range(count)]
    path = save(tmp_path / "m.onnx", nodes, modules=[f"layer.{index % 7}" for index in range(count)])
    assert htp("info", path, "--tree").returncode == 0
    assert htp("report", path, "-o", tmp_path / "r.json").returncode == 0
    root = json.loads((tmp_path / "r.json").read_text())["files"][0]["modules"][0]
    assert root["own_parameters"] == 2  # of the common module of all
    plain = save(tmp_path / "plain.onnx", nodes)
    assert htp("tag", plain).returncode == 1  # no name resolves to a module
    assert htp("tag", plain, "--from", path).returncode == 0


def test_cycle_of_values_ends(tmp_path):
    nodes = [identity(f"n{index}", f"v{index}", f"v{(index + 1) % 50}") for index in range(50)]
    path = save(tmp_path / "m.onnx", nodes, modules=["a.b"] * 25 + ["a.c"] * 25, initializers=("v0",))
    assert htp("info", path, "--tree").returncode == 0
    fused = [helper.make_node("Fused", ["v3"], ["v0"], name="f")]
    assert htp("tag", save(tmp_path / "fused.onnx", fused), "--from", path).returncode == 0


def test_shapes_that_no_tensor_has_count_nothing(tmp_path):
    path = save(tmp_path / "m.onnx", [identity()], modules=["a"])
    model = onnx.load(path)
    model.graph.initializer[0].dims[:] = [2**62] * 10_000
    other = model.graph.initializer.add(name="negative", data_type=TensorProto.FLOAT)
    other.dims[:] = [-5, 3]
    path.write_bytes(model.SerializeToString())
    (file,) = report_document([path])["files"]
    assert {(one["parameters"], one["bytes"]) for one in file["modules"]} == {(0, 0)}


GRAPHS = {
    # Modules of names without a scope are inferred from data flow and order, which compare neighbors.
    "shared": lambda count: [helper.make_node("Add", ["w", f"v{i}"], [f"v{i + 1}"], name="") for i in range(count)],
    "constants": lambda count: [helper.make_node("Constant", [], [f"v{i}"], name="") for i in range(count)],
    "layers": lambda count: [identity(f"/l.{i}/q/Identity", f"v{i}", f"v{i + 1}") for i in range(count)],
    "second": lambda count: [identity(f"/l.{i % 9}/m/q_{i}/Id", f"v{i}", f"v{i + 1}") for i in range(count)],
    "nested": lambda count: [identity(f"/x{i}/a/a/a/a/Id", f"v{i}", f"v{i + 1}") for i in range(count)],
    "one_value": lambda count: [identity("", "w", "w") for _ in range(count)],
}


def seconds_for(kind, count, folder):
    known = identity("/l.0/q/Id", "w", "z")  # some name must resolve to a module
    path = save(folder / f"{kind}-{count}.onnx", [known, *GRAPHS[kind](count - 1)])
    start = time.process_time()
    Tagger().write(path)
    tagged = time.process_time() - start
    start = time.process_time()
    header, graph = read_header(path), read_graph(path)
    assert header.metadata["htp.modules"]
    assert len(graph.nodes) == count
    _, assignment = read_modules(path)
    assert len(list(outline(summarize(graph, assignment)))) > 1
    other = save(folder / f"{kind}-{count}-fused.onnx", [*GRAPHS[kind](count)[: count // 2], identity("f", "u", "y")])
    Tagger(path).assignment(other)
    return tagged + time.process_time() - start


@pytest.mark.slow
@pytest.mark.parametrize("kind", GRAPHS)
def test_time_grows_with_the_graph_and_not_with_its_square(kind, tmp_path):
    few, many = seconds_for(kind, 1_000, tmp_path), seconds_for(kind, 15_000, tmp_path)
    assert many < 45 * max(few, 0.1)


def test_list_of_modules_is_searched_once_for_the_part_that_a_file_is(tmp_path):
    names = {f"{part}{index}": "Part" for part in ("a", "b") for index in range(5_000)}
    inner = {f"{name}.q.{index}": "Linear" for name in names for index in range(2)}
    metadata = {"htp.modules": json.dumps({"": "Model", **names, **inner})}
    nodes = [identity(f"/q/z{index}/Id") for index in range(200)]
    start = time.process_time()
    with pytest.raises(MismatchError):  # it may be any of them
        Tagger().assignment(save(tmp_path / "m.onnx", nodes, metadata=metadata))
    assert time.process_time() - start < SECONDS


def test_scopes_of_dynamo_that_are_no_list_are_left_aside(tmp_path):
    path = save(tmp_path / "m.onnx", [*(identity(f"n{index}") for index in range(3)), identity("/l/q/Id")])
    model = onnx.load(path)
    nodes = model.graph.node[:3]
    for node, text in zip(nodes, ["[" * 100_000, "-" * 100_000 + "1", f"['', '{LONG}', 'x']"], strict=True):
        helper.set_model_props(node, {"pkg.torch.onnx.name_scopes": text})
    path.write_bytes(model.SerializeToString())
    done = htp("tag", path)
    assert done.returncode == 0, done.stderr
