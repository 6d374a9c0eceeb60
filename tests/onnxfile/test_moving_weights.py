"""Files that would become too large for protobuf are not written; their weights can be moved to external data."""

from __future__ import annotations

import os
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimum_htp import inject_hub_metadata, strip_metadata, verify_metadata
from optimum_htp.errors import FileChangedError, FileTooLargeError, OnnxWriteError
from optimum_htp.modules.prove import prove_weights
from optimum_htp.onnxfile import contained_files, external_files, read_metadata, rewrite_model
from optimum_htp.onnxfile.replace_file import before_replacing
from optimum_htp.onnxfile.unchanged import identity_of
from optimum_htp.stamping.embed import embed_files
from optimum_htp.stamping.stamp import stamp
from optimum_htp.stamping.tag import tag_file
from tests.conftest import optimum_cli
from tests.support.large import LIMIT, sparse


def saved(path):
    """Write a model with a large and a small tensor, one with typed data, and one in a branch."""
    large = numpy_helper.from_array(np.arange(1 << 19, dtype=np.float32).reshape(2, -1), "large")
    middle = numpy_helper.from_array(np.arange(2000, dtype=np.float32), "middle")
    small = numpy_helper.from_array(np.float32([2]), "small")
    typed = helper.make_tensor("typed", TensorProto.FLOAT, [3000], np.ones(3000, np.float32))
    inner = numpy_helper.from_array(np.full(3000, 7, np.float32), "inner")
    value = helper.make_tensor_value_info
    branch = helper.make_graph(
        [helper.make_node("Identity", ["inner"], ["z"], name="/b/Identity")],
        "branch",
        [],
        [value("z", 1, [3000])],
        [inner],
    )
    nodes = [
        helper.make_node("ReduceSum", ["large"], ["sum"], name="/a/ReduceSum", keepdims=0),
        helper.make_node("ReduceSum", ["middle"], ["sum2"], name="/a/ReduceSum_1", keepdims=0),
        helper.make_node("If", ["c"], ["chosen"], name="/b/If", then_branch=branch, else_branch=branch),
        helper.make_node("Sum", ["sum", "sum2", "small", "typed", "chosen"], ["y"], name="/a/Sum"),
    ]
    graph = helper.make_graph(
        nodes, "g", [value("c", TensorProto.BOOL, [])], [value("y", 1, [3000])], [large, middle, small, typed]
    )
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


def result(path):
    (array,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"c": np.array(True)})
    return array.tobytes()


def places(path):
    """Return the place of each external tensor of a file."""
    model = onnx.load(path, load_external_data=False)
    tensors = onnx.external_data_helper._get_all_tensors(model)
    return {
        tensor.name: {item.key: item.value for item in tensor.external_data}
        for tensor in tensors
        if tensor.data_location == TensorProto.EXTERNAL
    }


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_large_weights_are_moved_and_the_model_computes_the_same(tmp_path):
    path = saved(tmp_path / "model.onnx")
    path.chmod(0o640)
    before = result(path)
    tag_file(path, external_data=True)
    assert os.name == "nt" or stat.S_IMODE((tmp_path / "model.onnx_data").stat().st_mode) == 0o640
    onnx.checker.check_model(path)
    assert result(path) == before
    found = places(path)
    assert found.keys() == {"large", "middle", "inner"}
    assert {place["location"] for place in found.values()} == {"model.onnx_data"}
    assert int(found["large"]["offset"]) % 4096 == 0
    assert all(int(place["offset"]) % 64 == 0 for place in found.values())
    assert path.stat().st_size < 50_000
    assert names_in(tmp_path) == ["model.onnx", "model.onnx_data"]
    loaded = onnx.load(path)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in loaded.graph.initializer}
    assert tensors["large"].ravel().tolist() == list(range(1 << 19))


def test_moved_files_stay_at_their_places(tmp_path):
    path = saved(tmp_path / "model.onnx")
    tag_file(path, external_data=True)
    content, data = path.read_bytes(), (tmp_path / "model.onnx_data").stat()
    tag_file(path, external_data=True)
    assert path.read_bytes() == content
    rewrite_model(path, metadata={"k": "v"}, external_data=True)
    assert os.path.samestat((tmp_path / "model.onnx_data").stat(), data)
    assert names_in(tmp_path) == ["model.onnx", "model.onnx_data"]
    assert read_metadata(path)["k"] == "v"


def test_foreign_file_is_not_replaced_by_data(tmp_path):
    path = saved(tmp_path / "model.onnx")
    before = result(path)
    (tmp_path / "model.onnx_data").write_bytes(b"theirs")
    (tmp_path / "model.onnx_data_1").symlink_to("nothing")
    tag_file(path, external_data=True)
    (name,) = external_files(path)
    assert name.startswith("model.onnx_data_")
    assert name != "model.onnx_data_1"
    assert (tmp_path / "model.onnx_data").read_bytes() == b"theirs"
    assert result(path) == before


@pytest.mark.parametrize("at", [1, 2])
def test_nothing_is_left_of_a_move_that_fails(at, tmp_path):
    path = saved(tmp_path / "model.onnx")
    content, calls = path.read_bytes(), []

    def stop():
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt

    token = before_replacing.set(stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            tag_file(path, external_data=True)
    finally:
        before_replacing.reset(token)
    assert path.read_bytes() == content
    assert names_in(tmp_path) == ["model.onnx"]


def test_parallel_writers_leave_a_model_with_its_own_data(tmp_path):
    path = saved(tmp_path / "model.onnx")
    before = result(path)

    def write(number):
        try:
            rewrite_model(path, metadata={"k": str(number)}, external_data=True)
        except FileChangedError:
            return 0
        return 1

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(write, range(8))) >= 1
    assert result(path) == before
    assert names_in(tmp_path) == sorted(["model.onnx", *external_files(path)])


def test_model_and_data_go_to_another_folder_together(tmp_path):
    path = saved(tmp_path / "model.onnx")
    (tmp_path / "out").mkdir()
    tag_file(path, output=tmp_path / "out" / "other.onnx", external_data=True)
    assert names_in(tmp_path / "out") == ["other.onnx", "other.onnx_data"]
    assert result(tmp_path / "out" / "other.onnx") == result(path)
    assert names_in(tmp_path) == ["model.onnx", "out"]


def test_moved_weights_are_those_of_the_commit(zoo_export, tmp_path):
    made = zoo_export("bert")
    path = shutil.copy(made.output / "model.onnx", tmp_path / "model.onnx")
    inject_hub_metadata(path, made.model, external_data=True)
    assert contained_files(path) == ("model.onnx_data",)
    assert not prove_weights(path, made.model).foreign
    assert verify_metadata(path).status.value == 0
    embed_files(path, made.model, external_data=True)
    strip_metadata(path)
    assert names_in(tmp_path) == ["model.onnx", "model.onnx_data"]
    assert not prove_weights(path, made.model).foreign


@pytest.mark.parametrize("command", ["tag", "inject", "embed"])
def test_commands_move_weights(command, zoo_export, tmp_path):
    made = zoo_export("bert")
    path = shutil.copy(made.output / "model.onnx", tmp_path / "model.onnx")
    more = {"tag": (), "inject": ("--model", made.model), "embed": ("--from", made.model)}[command]
    optimum_cli("htp", command, path, *more, "--external-data")
    assert contained_files(path) == ("model.onnx_data",)


@pytest.fixture
def nearly_full(tmp_path):
    yield sparse(tmp_path / "model.onnx", LIMIT - 73)
    for path in tmp_path.iterdir():  # pytest keeps folders, and these take 2 GiB
        path.unlink()


def test_file_that_would_be_too_large_is_not_written(nearly_full, zoo_export):
    seen = identity_of(nearly_full.stat())
    attempts = [
        lambda: tag_file(nearly_full),
        lambda: rewrite_model(nearly_full, metadata={"k": "v" * 100}),
        lambda: inject_hub_metadata(nearly_full, zoo_export("bert").model, task="text-classification", force=True),
    ]
    for attempt in attempts:
        with pytest.raises(FileTooLargeError, match=r"at most 2,147,483,647.*--external-data.*model\.onnx_data"):
            attempt()
    assert identity_of(nearly_full.stat()) == seen
    assert names_in(nearly_full.parent) == ["model.onnx"]
    done = optimum_cli("htp", "tag", nearly_full, check=False)
    assert done.returncode == 1
    assert "--external-data" in done.stderr
    assert "Traceback" not in done.stderr


def test_one_byte_more_than_fits_is_not_written(tmp_path):
    path = sparse(tmp_path / "model.onnx", LIMIT - 10)
    with pytest.raises(OnnxWriteError, match="2,147,483,648"):
        rewrite_model(path, metadata={"k": "vvvv"})  # 11 bytes as a field


@pytest.mark.slow
def test_file_near_the_size_limit_is_tagged_with_moved_weights(nearly_full):
    tag_file(nearly_full, external_data=True)
    assert nearly_full.stat().st_size < 10_000
    session = onnxruntime.InferenceSession(nearly_full, providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.float32([3])})[0].tolist() == [3.0]


@pytest.mark.slow
def test_export_that_would_be_too_large_gets_external_data(nearly_full, zoo_export):
    from optimum_htp.metadata import read_record

    record = read_record(zoo_export("bert").output / "model.onnx")
    stamp(nearly_full, record, author=None, extra={}, external_data=None)
    assert external_files(nearly_full) == ("model.onnx_data",)
