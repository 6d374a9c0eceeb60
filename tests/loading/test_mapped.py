"""Sessions map their weights from the file; outputs and messages are unchanged."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimum_htp.loading.mapped import open_session
from optimum_htp.onnxfile import read_without_weights
from optimum_htp.profiling import can_map_weights

CPU = ["CPUExecutionProvider"]
WEIGHT = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
FEED = {"x": np.ones((1, 64), np.float32)}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel says what is mapped in /proc")

needs_mapping = pytest.mark.skipif(not can_map_weights(), reason="this version of ONNX Runtime cannot map")


def is_mapped(path: Path) -> bool:
    return os.path.realpath(path) in Path("/proc/self/maps").read_text()


def saved(path: Path, weight: TensorProto, op: str = "MatMul", **save: object) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Cast", ["w"], ["wf"], to=1), helper.make_node(op, ["x", "wf"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, [1, 64])],
        [helper.make_tensor_value_info("y", 1, [1, 64])],
        [weight],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    onnx.save(model, path, **save)
    return path


def raw() -> TensorProto:
    return numpy_helper.from_array(WEIGHT, "w")


def typed() -> TensorProto:
    return helper.make_tensor("w", TensorProto.FLOAT, [64, 64], WEIGHT.ravel())


def compared(path: Path) -> None:
    usual = onnxruntime.InferenceSession(path, providers=CPU).run(None, FEED)
    ours = open_session(path, providers=CPU).run(None, FEED)
    assert [value.tobytes() for value in usual] == [value.tobytes() for value in ours]


@needs_mapping
@pytest.mark.parametrize("name", ["model.onnx", "größe 模型.onnx"])
def test_weights_are_mapped_and_the_session_reports_its_path(tmp_path, name):
    path = saved(tmp_path / name, raw())
    session = open_session(path, providers=CPU)
    assert type(session) is onnxruntime.InferenceSession
    assert (session._model_path, session._model_bytes) == (str(path), None)
    compared(path)


def test_variable_disables_mapping(tmp_path, monkeypatch, caplog):
    path = saved(tmp_path / "model.onnx", raw())
    monkeypatch.setenv("OPTIMUM_HTP_MMAP", "0")
    with caplog.at_level("DEBUG", "optimum_htp"):
        open_session(path, providers=CPU)
    assert [record.levelname for record in caplog.records] == ["DEBUG"]
    assert "OPTIMUM_HTP_MMAP is 0" in caplog.text


@needs_mapping
def test_set_providers_creates_the_session_again(tmp_path):
    session = open_session(saved(tmp_path / "model.onnx", raw()), providers=CPU)
    before = session.run(None, FEED)[0]
    session.set_providers(CPU)
    assert session.run(None, FEED)[0].tobytes() == before.tobytes()


def test_external_data_outside_the_folder_is_rejected(tmp_path):
    """Also for a constant, which never needs external data."""
    (tmp_path / "secret").write_bytes(np.arange(1024, dtype=np.float32).tobytes())
    (tmp_path / "models").mkdir()
    path = saved(tmp_path / "models" / "model.onnx", raw())
    model = onnx.load(path)
    value = helper.make_tensor("c", onnx.TensorProto.FLOAT, [1024], bytes(4096), raw=True)
    value.ClearField("raw_data")
    value.data_location = onnx.TensorProto.EXTERNAL
    value.external_data.add(key="location", value=str(tmp_path / "secret").lstrip("/"))
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=value))
    model.graph.output.append(helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, [1024]))
    path.write_bytes(model.SerializeToString())
    assert read_without_weights(path) is None
    with pytest.raises(Exception, match=r"(?i)external|escape|outside|exist|secret"):
        open_session(path, providers=CPU)


@needs_mapping
def test_link_to_another_folder_is_followed(tmp_path, caplog):
    (tmp_path / "blobs").mkdir()
    link = tmp_path / "model.onnx"
    link.symlink_to(saved(tmp_path / "blobs" / "model", raw()))
    with caplog.at_level("DEBUG", "optimum_htp"):
        assert open_session(link, providers=CPU)._model_path == str(link)
    assert not caplog.records
    compared(link)


@needs_mapping
@pytest.mark.parametrize("name", ["bert", "t5", "gpt2"])
def test_loaded_model_works_after_its_file_is_replaced(zoo_export, tmp_path, name, caplog):
    import torch

    from optimum_htp import OptimumONNXModel

    folder = Path(shutil.copytree(zoo_export(name).output, tmp_path / "out"))
    file = sorted(folder.glob("*.onnx"))[0]
    with caplog.at_level("DEBUG", "optimum_htp.loading.mapped"):
        caplog.clear()  # drop logs of the export
        model = OptimumONNXModel.from_pretrained(file)
    assert not [record for record in caplog.records if record.name == "optimum_htp.loading.mapped"]
    assert any(is_mapped(path) for path in folder.glob("*.onnx"))
    ids = {"input_ids": torch.ones(1, 4, dtype=torch.long), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    ids |= {"decoder_input_ids": ids["input_ids"]} if name == "t5" else {}
    before = model(**ids)[0]
    for path in folder.glob("*.onnx"):
        (tmp_path / "new").write_bytes(bytes(path.stat().st_size))
        (tmp_path / "new").replace(path)
    assert torch.equal(model(**ids)[0], before)


def test_typed_data_and_external_data_are_not_mapped(tmp_path):
    assert read_without_weights(saved(tmp_path / "typed.onnx", typed())) is None
    adjacent = saved(
        tmp_path / "out.onnx", raw(), save_as_external_data=True, location="out.onnx_data", size_threshold=0
    )
    assert read_without_weights(adjacent) is None
    for name in ("typed.onnx", "out.onnx"):
        compared(tmp_path / name)
