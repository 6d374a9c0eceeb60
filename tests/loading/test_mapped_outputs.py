"""Mapped sessions have bitwise the same outputs as normal sessions, for all kinds of data."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimum_htp.loading.mapped import open_session
from optimum_htp.onnxfile import read_without_weights, without_weights
from optimum_htp.profiling.inputs import sample_inputs
from tests.support.mapped import CPU, FEED, LOG, RANDOM, TIMES, WEIGHT, array, assert_mapped, cast_of, model_of, run
from tests.support.zoo import ZOO


def assert_same(path, feed, caplog):
    """If ONNX Runtime supports mapping, the file is mapped: the log has no message about a normal load."""
    usual = run(onnxruntime.InferenceSession(path, providers=CPU), feed)
    caplog.clear()
    with caplog.at_level("DEBUG", LOG):
        ours = run(open_session(path, providers=CPU), feed)
    assert_mapped(caplog)
    assert ours == usual


@pytest.mark.parametrize("name", ZOO)
def test_every_architecture(zoo_export, name, caplog, monkeypatch):
    # These models are tiny; map more than their embeddings.
    monkeypatch.setattr(without_weights, "_SMALL", 64)
    files = sorted(zoo_export(name).output.glob("*.onnx"))
    assert files
    for file in files:
        assert_same(file, sample_inputs(file), caplog)


def scaled(tensor):
    scale = numpy_helper.from_array(np.float32(0.1), "s")
    return [helper.make_node("DequantizeLinear", ["w", "s"], ["wf"]), TIMES], [tensor, scale]


def raw(kind, dtype):
    """A tensor of a type that numpy has only from ml_dtypes, which earlier onnx versions do not support."""
    return helper.make_tensor("w", kind, WEIGHT.shape, WEIGHT.astype(dtype).tobytes(), raw=True)


def packed(kind):
    content = RANDOM.integers(0, 256, 128 * 128 // 2, np.uint8).tobytes()
    return helper.make_tensor("w", kind, [128, 128], content, raw=True)


KINDS = {
    "float16": lambda: cast_of(array(np.float16)),
    "bfloat16": lambda: cast_of(raw(TensorProto.BFLOAT16, ml_dtypes.bfloat16)),
    "float64": lambda: cast_of(array(np.float64)),
    "bool": lambda: cast_of(array(np.bool_)),
    "int64": lambda: cast_of(array(np.int64)),
    "float8e4m3fn": lambda: cast_of(raw(TensorProto.FLOAT8E4M3FN, ml_dtypes.float8_e4m3fn)),
    "float8e5m2": lambda: cast_of(raw(TensorProto.FLOAT8E5M2, ml_dtypes.float8_e5m2)),
    "int8": lambda: scaled(array(np.int8)),
    "int4": lambda: scaled(packed(TensorProto.INT4)),
    "uint4": lambda: scaled(packed(TensorProto.UINT4)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_of_data(tmp_path, kind, caplog):
    assert_same(model_of(tmp_path / "model.onnx", *KINDS[kind]()), FEED, caplog)


def test_four_bits_in_blocks(tmp_path, caplog):
    """As in weight-only quantization, for one operator."""
    blocks = RANDOM.integers(0, 256, (256, 4, 16), np.uint8)
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=128, N=256, bits=4, block_size=32
    )
    scales = RANDOM.random((256 * 4,), np.float32)
    parts = [numpy_helper.from_array(blocks, "w"), numpy_helper.from_array(scales, "s")]
    assert_same(model_of(tmp_path / "model.onnx", [node], parts), FEED, caplog)


def test_strings_and_typed_data_with_mapped_tensors(tmp_path, caplog):
    words = helper.make_tensor("words", TensorProto.STRING, [600], [f"word {index}" for index in range(600)])
    typed = helper.make_tensor("typed", TensorProto.FLOAT, [128], WEIGHT[0])
    nodes = [
        helper.make_node("Add", ["x", "typed"], ["t"]),
        helper.make_node("MatMul", ["t", "w"], ["y"]),
        helper.make_node("Identity", ["words"], ["z"]),
    ]
    path = model_of(tmp_path / "model.onnx", nodes, [array(np.float32), words, typed], outputs=("y", "z"))
    usual = onnxruntime.InferenceSession(path, providers=CPU).run(None, FEED)
    ours = open_session(path, providers=CPU).run(None, FEED)
    assert ours[0].tobytes() == usual[0].tobytes()
    assert ours[1].tolist() == usual[1].tolist()
    assert read_without_weights(path) is not None


def test_sparse_tensors(tmp_path, caplog):
    values = numpy_helper.from_array(WEIGHT.ravel()[:2048].copy(), "w")
    places = numpy_helper.from_array(np.arange(0, 2048 * 8, 8, dtype=np.int64), "")
    sparse = helper.make_sparse_tensor(values, places, [128, 128])
    nodes = [helper.make_node("MatMul", ["x", "w"], ["t"]), helper.make_node("MatMul", ["t", "d"], ["y"])]
    dense = numpy_helper.from_array(WEIGHT, "d")
    assert_same(model_of(tmp_path / "model.onnx", nodes, [dense], sparse=[sparse]), FEED, caplog)


def test_constants_stay_in_the_model(tmp_path, caplog):
    nodes = [
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(WEIGHT, "c")),
        helper.make_node("MatMul", ["x", "c"], ["t"]),
        helper.make_node("MatMul", ["t", "w"], ["y"]),
    ]
    path = model_of(tmp_path / "model.onnx", nodes, [array(np.float32)])
    model = read_without_weights(path)
    assert model is not None
    assert len(model.content) > WEIGHT.nbytes
    assert_same(path, FEED, caplog)


def constant_elsewhere() -> onnx.NodeProto:
    value = TensorProto(name="c", data_type=1, dims=[128, 128], data_location=TensorProto.EXTERNAL)
    value.external_data.add(key="location", value="secret")
    return helper.make_node("Constant", [], ["c"], value=value)


def in_subgraph(node):
    branch = helper.make_graph(
        [node, helper.make_node("Identity", ["c"], ["o"])], "b", [], [helper.make_value_info("o", onnx.TypeProto())]
    )
    yes = numpy_helper.from_array(np.array(True), "yes")
    return helper.make_node("If", ["yes"], ["c2"], then_branch=branch, else_branch=branch), yes


@pytest.mark.parametrize("deep", [False, True])
def test_constant_with_external_data_is_rejected(tmp_path, deep):
    """Also for a file in its own folder: in the cache, a link leads to a folder with the files of all models."""
    (tmp_path / "secret").write_bytes(WEIGHT.tobytes())
    node, more = constant_elsewhere(), []
    if deep:
        node, yes = in_subgraph(node)
        more = [yes]
    nodes = [node, helper.make_node("MatMul", ["x", "w"], ["y"])]
    path = model_of(tmp_path / "model.onnx", nodes, [array(np.float32), *more])
    assert read_without_weights(path) is None


@pytest.mark.parametrize("static", [False, True])
def test_quantized_models(zoo_export, tmp_path, static, caplog, monkeypatch):
    from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static

    class Samples(CalibrationDataReader):
        def __init__(self, feeds):
            self.feeds = iter(feeds)

        def get_next(self):
            return next(self.feeds, None)

    monkeypatch.setattr(without_weights, "_SMALL", 64)
    source, target = zoo_export("bert").output / "model.onnx", tmp_path / "model.onnx"
    feed = sample_inputs(source)
    if static:
        quantize_static(source, target, Samples([feed]))
    else:
        quantize_dynamic(source, target)
    assert_same(target, feed, caplog)


def test_half_precision_models(zoo_export, tmp_path, caplog, monkeypatch):
    from onnxruntime.transformers.float16 import convert_float_to_float16

    monkeypatch.setattr(without_weights, "_SMALL", 64)
    source, target = zoo_export("bert").output / "model.onnx", tmp_path / "model.onnx"
    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), target)
    assert_same(target, sample_inputs(source), caplog)


@pytest.mark.parametrize("folder", ["with space", "größe 模型", "100% %20", "a'b\"c", "..hidden"])
def test_names_of_folders(tmp_path, folder, caplog):
    (tmp_path / folder).mkdir()
    assert_same(model_of(tmp_path / folder / "model.onnx", *cast_of(array(np.float16))), FEED, caplog)


def test_folder_of_links_as_in_the_cache_of_a_hub(tmp_path, caplog):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    made = model_of(tmp_path / "made.onnx", *cast_of(array(np.float16)))
    made.rename(blobs / "c0ffee")
    (snapshot / "model.onnx").symlink_to(Path("../../blobs/c0ffee"))
    blobs.chmod(0o555)
    assert_same(snapshot / "model.onnx", FEED, caplog)
    blobs.chmod(0o755)


@pytest.mark.slow
def test_large_model_with_its_weights_inside(tmp_path, caplog):
    """Just below protobuf's limit of 2 GiB."""
    rows = 950_000
    table = numpy_helper.from_array(RANDOM.random((rows, 512), np.float32), "w")
    nodes = [helper.make_node("Gather", ["w", "x"], ["y"])]
    path = model_of(tmp_path / "model.onnx", nodes, [table], [("x", TensorProto.INT64, ["n"])])
    del table
    assert path.stat().st_size > 1.9e9
    assert_same(path, {"x": np.array([0, 1, rows // 2, rows - 1])}, caplog)
