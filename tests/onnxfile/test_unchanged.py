"""A file that is replaced while it is read gives the content of one file, or an error; never a mixture."""

from __future__ import annotations

import shutil
import threading

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimum_htp import hookimpl, inject_hub_metadata
from optimum_htp.errors import FileChangedError
from optimum_htp.extras.bom.bill import bill_of_materials
from optimum_htp.extras.profile.running import profile_file
from optimum_htp.hierarchy.tags import read_modules
from optimum_htp.modules.comparison.compare import compare_models
from optimum_htp.modules.extract import CuttableModel
from optimum_htp.modules.prove import prove_weights
from optimum_htp.onnxfile import read_metadata, rewrite_model
from optimum_htp.onnxfile.contents import stored_tensors
from optimum_htp.onnxfile.unchanged import unchanged
from optimum_htp.plugins import manager
from optimum_htp.report.document import report_document
from optimum_htp.stamping.tag import tag_file

WEIGHT = np.arange(4096, dtype=np.float32).reshape(64, 64)


def saved(path, nodes=1, weight=WEIGHT, **options):
    """Write a chain of nodes, the first of which multiplies by a weight; there is a Constant too."""
    chain = [helper.make_node("MatMul", ["x", "w"], ["y0"], name="/a/MatMul")]
    chain += [helper.make_node("Relu", [f"y{i}"], [f"y{i + 1}"], name=f"/b.{i}/Relu") for i in range(nodes)]
    chain += [helper.make_node("Constant", [], ["c"], value_floats=[1.0, 2.0])]
    value = helper.make_tensor_value_info
    typed = helper.make_tensor("t", TensorProto.FLOAT, [2], [1.0, 2.0])
    graph = helper.make_graph(
        chain,
        "g",
        [value("x", 1, [1, 64])],
        [value(f"y{nodes}", 1, [1, 64])],
        [numpy_helper.from_array(weight, "w"), typed],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    onnx.save(model, path, **options)
    tag_file(path)
    return path


def outside(location):
    return {"save_as_external_data": True, "location": location, "size_threshold": 1024}


def replace(path):
    """Replace a file by a tagged copy, as a concurrent command does."""
    rewrite_model(path, metadata={"padding": "x" * 997})


@pytest.mark.parametrize("name", ["w", "t", "c"])
def test_tensors_of_a_replaced_file_are_not_read(name, tmp_path):
    path = saved(tmp_path / "m.onnx")
    tensors = {tensor.name: tensor for tensor in stored_tensors(path)}
    assert tensors["w"].array().tobytes() == WEIGHT.tobytes()
    replace(path)
    with pytest.raises(FileChangedError, match=r"m\.onnx or its data was replaced"):
        tensors[name].array()
    path.unlink()
    with pytest.raises(FileChangedError):
        tensors[name].array()


def test_tensors_of_replaced_external_data_are_not_read(tmp_path):
    path = saved(tmp_path / "m.onnx", **outside("w.data"))
    tensors = {tensor.name: tensor for tensor in stored_tensors(path)}
    saved(tmp_path / "other.onnx", weight=WEIGHT + 1, **outside("other.data"))
    (tmp_path / "other.data").replace(tmp_path / "w.data")
    assert tensors["t"].array().tolist() == [1.0, 2.0]
    with pytest.raises(FileChangedError):
        tensors["w"].array()


def test_array_read_before_a_change_stays_the_same(tmp_path):
    path = saved(tmp_path / "m.onnx")
    array = {tensor.name: tensor for tensor in stored_tensors(path)}["w"].array()
    saved(tmp_path / "other.onnx", nodes=3, weight=WEIGHT + 1).replace(path)
    assert array.tobytes() == WEIGHT.tobytes()


@pytest.fixture
def bert(zoo_export, tmp_path):
    """A copy of an export, and its model's folder."""
    made = zoo_export("bert")
    return shutil.copy(made.output / "model.onnx", tmp_path / "model.onnx"), made.model


def once(work):
    done = []

    def progress(*_):
        if not done:
            done.append(work())

    return progress


def test_weights_of_a_file_replaced_during_the_run_are_not_judged(bert):
    path, folder = bert
    with pytest.raises(FileChangedError, match="Run the command again"):
        prove_weights(path, folder, progress=once(lambda: replace(path)))
    assert not prove_weights(path, folder).foreign


@pytest.mark.parametrize("which", [0, 1])
def test_files_replaced_during_the_run_are_not_compared(which, bert, tmp_path):
    path, _ = bert
    other = shutil.copy(path, tmp_path / "other.onnx")
    with pytest.raises(FileChangedError):
        compare_models(path, other, progress=once(lambda: replace((path, other)[which])))
    assert not compare_models(path, other).exceeds


def test_bill_of_a_file_replaced_during_the_run_is_not_written(tmp_path):
    pytest.importorskip("cyclonedx")
    path = saved(tmp_path / "m.onnx", **outside("w.data"))
    with pytest.raises(FileChangedError):
        bill_of_materials([path], progress=once(lambda: replace(path)))
    with pytest.raises(FileChangedError):
        bill_of_materials([path], progress=once((tmp_path / "w.data").touch))


def test_module_of_a_replaced_file_is_not_written(tmp_path):
    path = saved(tmp_path / "m.onnx", **outside("w.data"))
    with CuttableModel.at(path) as model:
        saved(path, weight=WEIGHT + 1, **outside("w.data"))
        with pytest.raises(FileChangedError):
            model.extract("a", tmp_path / "cut.onnx")
        assert not (tmp_path / "cut.onnx").exists()
    with CuttableModel.at(path) as model:  # damage without a replacement has its own error
        model.extract("a", tmp_path / "cut.onnx")
    assert (tmp_path / "cut.onnx").exists()


def test_record_of_one_file_is_not_written_into_another(bert, tmp_path):
    path, folder = bert
    other = shutil.copy(path, tmp_path / "other.onnx")
    rewrite_model(other, metadata={"other": "yes"})

    class Slow:
        @hookimpl
        def optimum_htp_metadata(self, metadata, info):
            shutil.copy(other, tmp_path / "new").replace(path)
            return {}

    plugin = Slow()
    manager().register(plugin)
    try:
        with pytest.raises(FileChangedError):
            inject_hub_metadata(path, folder)
    finally:
        manager().unregister(plugin)
    assert path.read_bytes() == other.read_bytes()
    inject_hub_metadata(path, folder)
    assert read_metadata(path)["other"] == "yes"


def test_error_for_an_unchanged_file_is_kept(tmp_path):
    path = saved(tmp_path / "m.onnx")

    def fail(before):
        with unchanged(path):
            before()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail(lambda: None)
    with pytest.raises(FileChangedError) as caught:
        fail(lambda: replace(path))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.fixture
def swapped(tmp_path):
    """A file that another thread replaces all the time by one of two files, and their contents."""
    path, stop = tmp_path / "m.onnx", threading.Event()
    files = [saved(tmp_path / f"{nodes}.onnx", nodes) for nodes in (1, 40)]
    known = [contents(file) for file in files]
    pair = [file.read_bytes() for file in files]
    path.write_bytes(pair[0])

    def swap():
        while not stop.is_set():
            for content in reversed(pair):
                (tmp_path / "new").write_bytes(content)
                (tmp_path / "new").replace(path)

    thread = threading.Thread(target=swap)
    thread.start()
    yield path, known
    stop.set()
    thread.join()


def contents(path):
    graph, assignment = read_modules(path)
    (document,) = report_document([path])["files"]
    modules = len(graph.nodes), sorted(assignment.tree.classes)
    return modules, (document["bytes"], document["model"]["nodes"], [one["name"] for one in document["modules"]])


def test_report_and_modules_are_of_one_file_while_it_is_replaced(swapped):
    path, known = swapped
    seen = [contents(path) for _ in range(100)]
    for part in (0, 1):
        assert all(one[part] in (known[0][part], known[1][part]) for one in seen)
    assert len({one[0][0] for one in seen}) == 2


def test_profile_is_of_one_file_while_it_is_replaced(swapped):
    path, _ = swapped
    for _ in range(5):
        try:
            profile = profile_file(path, runs=1, warmup=0, optimize=False)
        except FileChangedError:
            continue
        assert len(profile.microseconds) >= len(profile.graph.nodes) - 1
