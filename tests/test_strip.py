"""strip takes out what was written into a file, and gives back what was there."""

from __future__ import annotations

import onnx
import pytest

from optimum_htp import inject_hub_metadata, strip_metadata
from optimum_htp.errors import (
    InvalidOnnxFileError,
    OnnxWriteError,
)
from optimum_htp.onnxfile import read_metadata, rewrite_model
from tests.conftest import optimum_cli


def test_stripping_gives_the_file_back_as_it_was(plain_bert, access):
    before = onnx.load(plain_bert)
    inject_hub_metadata(plain_bert, "tiny/bert", access=access)
    assert strip_metadata(plain_bert) > 10
    assert onnx.load(plain_bert) == before


def test_stripping_takes_tags_off_nodes_and_leaves_the_rest(plain_bert):
    def tag(known):
        return {"htp.module": "bert", "htp.tag": "/Bert", "namespace": "bert", "mine": "kept"}

    rewrite_model(plain_bert, metadata={"htp.modules": "{}", "mine": "kept"}, nodes=tag, ir_version=10)
    nodes = len(onnx.load(plain_bert).graph.node)
    assert strip_metadata(plain_bert) == nodes + 1
    model = onnx.load(plain_bert)
    assert {entry.key for node in model.graph.node for entry in node.metadata_props} == {"mine"}
    assert {entry.key for entry in model.metadata_props} == {"mine"}


def test_stripping_elsewhere_takes_external_data_along(plain_bert, access, tmp_path):
    onnx.save(
        onnx.load(plain_bert), plain_bert, save_as_external_data=True, location="bert.onnx_data", size_threshold=0
    )
    inject_hub_metadata(plain_bert, "tiny/bert", access=access)
    stamped = plain_bert.read_bytes()
    (tmp_path / "out").mkdir()
    optimum_cli("htp", "strip", plain_bert, "--output", tmp_path / "out")
    assert plain_bert.read_bytes() == stamped
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["bert.onnx", "bert.onnx_data"]
    onnx.checker.check_model(str(tmp_path / "out" / "bert.onnx"))
    assert not any(key.startswith("hf_") for key in read_metadata(tmp_path / "out" / "bert.onnx"))


def test_stripping_elsewhere_overwrites_no_other_data(plain_bert, access, tmp_path):
    onnx.save(onnx.load(plain_bert), plain_bert, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "weights.bin").write_bytes(b"of another model")
    with pytest.raises(OnnxWriteError, match="is there already"):
        strip_metadata(plain_bert, tmp_path / "out" / "m.onnx")
    assert (tmp_path / "out" / "weights.bin").read_bytes() == b"of another model"
    assert not (tmp_path / "out" / "m.onnx").exists()


def test_stripping_elsewhere_copies_nothing_from_outside_the_folder(plain_bert, tmp_path):
    model = onnx.load(plain_bert)
    tensor = model.graph.initializer.add(name="evil", data_type=1, dims=[1], data_location=1)
    tensor.external_data.add(key="location", value="../payload")
    plain_bert.write_bytes(model.SerializeToString())
    (tmp_path / "out").mkdir()
    with pytest.raises(InvalidOnnxFileError, match="outside its folder"):
        strip_metadata(plain_bert, tmp_path / "out" / "m.onnx")
