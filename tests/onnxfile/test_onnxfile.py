"""Reading and rewriting ONNX files at the wire level, compared with onnx's own parser."""

from __future__ import annotations

import stat

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimum_htp.errors import InvalidOnnxFileError, OnnxFileNotFoundError
from optimum_htp.onnxfile import (
    canonicalize_initializers,
    external_files,
    read_header,
    read_metadata,
    read_signature,
    rename_model,
    rewrite_model,
)


@pytest.fixture
def model():
    weights = [numpy_helper.from_array(np.random.rand(64, 64).astype("float32"), f"w{index}") for index in (2, 0, 1)]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w0"], ["logits"], name="mm")],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 64])],
        initializer=weights,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8, producer_name="torch")
    helper.set_model_props(made, {"mine": "kept", "hf_hub_id": "old/model", "läng": "ünïcode"})
    return made


@pytest.fixture
def file(model, tmp_path):
    path = tmp_path / "mödel with spaces.onnx"
    onnx.save(model, path)
    return path


def test_header_equals_that_of_onnx(file, model):
    header = read_header(file)
    assert header.ir_version == 8
    assert header.producer_name == "torch"
    assert header.opsets == {"": 18}
    assert header.metadata == {"mine": "kept", "hf_hub_id": "old/model", "läng": "ünïcode"}


def test_archives_of_other_tools_are_read_as_properties(file, model):
    """Only long values of this package are read on demand."""
    helper.set_model_props(model, {"weights_zip": "theirs", "hf_zip_of": "x", "hf_embedded_zip": "ours"})
    onnx.save(model, file)
    assert read_metadata(file) == {"weights_zip": "theirs", "hf_zip_of": "x"}


def test_signature_has_names_and_shapes(file):
    (given,), (result,) = read_signature(file)
    assert (given.name, given.shape, given.dtype) == ("x", ("batch", 64), "float32")
    assert str(given) == "x float32[batch, 64]"
    assert (result.name, result.shape) == ("logits", ("batch", 64))


def test_last_of_repeated_keys_counts(file, model):
    model.metadata_props.add(key="mine", value="newer")
    onnx.save(model, file)
    assert read_metadata(file)["mine"] == "newer"


def test_rewriting_changes_the_header_and_nothing_else(file, model):
    rewrite_model(
        file,
        metadata={"hf_task": "fill-mask"},
        drop=lambda key: key.startswith("hf_"),
        texts={"producer_name": "ours", "doc_string": "what it is"},
    )
    written = onnx.load(file)
    onnx.checker.check_model(written, full_check=True)
    assert {entry.key: entry.value for entry in written.metadata_props} == {
        "mine": "kept",
        "läng": "ünïcode",
        "hf_task": "fill-mask",
    }
    assert (written.producer_name, written.doc_string) == ("ours", "what it is")
    assert written.graph.SerializeToString() == model.graph.SerializeToString()
    del written.metadata_props[:], model.metadata_props[:]
    model.producer_name, model.doc_string = "ours", "what it is"
    assert written == model


def test_rewriting_with_the_same_content_keeps_every_byte(file):
    before = file.read_bytes()
    rewrite_model(file, metadata={})
    assert file.read_bytes() == before


def test_rewriting_follows_a_link_and_keeps_permissions(file, tmp_path):
    file.chmod(0o640)
    link = tmp_path / "link.onnx"
    link.symlink_to(file)
    rewrite_model(link, metadata={"k": "v"})
    assert link.is_symlink()
    assert read_metadata(file)["k"] == "v"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_failed_rewriting_leaves_the_old_file_and_no_other(file):
    before, damaged = file.read_bytes(), file.with_name("damaged.onnx")
    damaged.write_bytes(before[:-3])
    with pytest.raises(InvalidOnnxFileError):
        rewrite_model(damaged, metadata={"k": "v"})
    assert damaged.read_bytes() == before[:-3]
    assert sorted(path.name for path in file.parent.iterdir()) == sorted([damaged.name, file.name])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a model",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x08\x08",
        b"\x3a\x00\x72\x05\x0a\x03\xff\xfe\xfd",
        b"\x0b" * 5000,
    ],
    ids=["empty", "text", "lfs pointer", "11-byte varint", "no graph", "not utf-8", "open groups"],
)
def test_non_onnx_file_is_rejected_by_name(content, tmp_path):
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(InvalidOnnxFileError, match=r"bad\.onnx"):
        read_header(path)


def test_missing_file_is_a_file_not_found_error(tmp_path):
    with pytest.raises(OnnxFileNotFoundError) as caught:
        read_header(tmp_path / "none.onnx")
    assert isinstance(caught.value, FileNotFoundError)


def test_large_weights_are_not_read(tmp_path):
    path = tmp_path / "sparse.onnx"
    size = 5 << 30
    with path.open("wb") as stream:
        stream.write(b"\x3a" + _varint(size))
        stream.seek(size, 1)
        stream.write(b"\x72\x06\x0a\x01k\x12\x01v")
    assert read_metadata(path) == {"k": "v"}


def _varint(value):
    encoded = b""
    while value > 0x7F:
        encoded += bytes([value & 0x7F | 0x80])
        value >>= 7
    return encoded + bytes([value])


@pytest.fixture
def weights(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def _weights_of(path):
    loaded = onnx.load(path)
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in loaded.graph.initializer}


def test_model_with_external_data_is_renamed_with_its_data(file, model, weights):
    onnx.save(model, file, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert external_files(file) == ("weights.bin",)
    target = file.with_name("renamed.onnx")
    rename_model(file, target)
    assert sorted(path.name for path in target.parent.iterdir()) == ["renamed.onnx", "renamed.onnx_data"]
    np.testing.assert_equal(_weights_of(target), weights)


@pytest.mark.parametrize(
    "names",
    [
        ["part1", "renamed.onnx_data"],
        ["renamed.onnx_data_1", "renamed.onnx_data"],
        ["renamed.onnx_data", "renamed.onnx_data_1"],
        ["sub/part1", "part1"],
    ],
)
def test_data_files_with_colliding_names_are_renamed(file, model, weights, names):
    split = onnx.ModelProto.FromString(model.SerializeToString())
    (file.parent / "sub").mkdir()
    for number, tensor in enumerate(split.graph.initializer):
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
        with (file.parent / names[min(number, 1)]).open("ab") as stream:
            offset, length = stream.tell(), stream.write(tensor.raw_data)
        onnx.external_data_helper.set_external_data(tensor, names[min(number, 1)], offset, length)
        tensor.ClearField("raw_data")
    onnx.save(split, file)
    np.testing.assert_equal(_weights_of(file), weights)
    target = file.with_name("renamed.onnx")
    rename_model(file, target)
    (file.parent / "sub").rmdir()
    assert sorted(path.name for path in target.parent.iterdir()) == [
        "renamed.onnx",
        "renamed.onnx_data",
        "renamed.onnx_data_1",
    ]
    np.testing.assert_equal(_weights_of(target), weights)


@pytest.mark.parametrize("external", [False, True])
def test_initializers_are_named_and_ordered_by_their_use(file, model, weights, external):
    onnx.save(model, file, save_as_external_data=external, location="data.bin", size_threshold=0)
    canonicalize_initializers(file)
    written = _weights_of(file)
    assert list(written) == ["mm.1", "w1", "w2"]  # the last two are not used
    np.testing.assert_equal(written, {"mm.1": weights["w0"], "w1": weights["w1"], "w2": weights["w2"]})
    assert list(onnx.load(file, load_external_data=False).graph.node[0].input) == ["x", "mm.1"]
    assert external_files(file) == (("data.bin",) if external else ())
