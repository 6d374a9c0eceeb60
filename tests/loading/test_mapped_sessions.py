"""Mapped sessions accept user options, initializers and profiling, and fail like normal sessions."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from optimum_htp.loading.mapped import open_session
from optimum_htp.profiling import can_map_weights
from tests.support.mapped import CPU, FEED, LOG, WEIGHT, array, assert_mapped, cast_of, model_of, run


def test_working_folder_can_change_after_a_load(tmp_path, caplog, monkeypatch):
    path = model_of(tmp_path / "model.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], [array(np.float32)])
    usual = run(onnxruntime.InferenceSession(path, providers=CPU), FEED)
    monkeypatch.chdir(tmp_path)
    with caplog.at_level("DEBUG", LOG):
        session = open_session("model.onnx", providers=CPU)
    assert_mapped(caplog)
    monkeypatch.chdir("/")
    assert run(session, FEED) == usual


def test_user_options_work_in_all_folders_and_are_unchanged(tmp_path, caplog):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_free_dimension_override_by_name("batch", 1)
    with caplog.at_level("DEBUG", LOG):
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            nodes, tensors = cast_of(array(np.float16))
            path = model_of(tmp_path / name / "model.onnx", nodes, tensors, [("x", 1, ["batch", 128])])
            session = open_session(path, options, CPU)
            theirs = session.get_session_options()
            assert theirs.intra_op_num_threads == 1
            assert theirs.get_session_config_entry("session.intra_op.allow_spinning") == "0"
            assert session.get_inputs()[0].shape == onnxruntime.InferenceSession(path, options).get_inputs()[0].shape
            assert session._sess_options_initial is options
    assert_mapped(caplog)
    with pytest.raises(RuntimeError, match="does not have"):
        options.get_session_config_entry("session.model_external_initializers_file_folder_path")


def test_user_initializers_are_used(tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    path = model_of(tmp_path / "model.onnx", nodes, [array(np.float32)])
    options = onnxruntime.SessionOptions()
    other = onnxruntime.OrtValue.ortvalue_from_numpy(2 * WEIGHT)
    options.add_initializer("w", other)
    usual = run(onnxruntime.InferenceSession(path, options, CPU), FEED)
    assert run(open_session(path, options, CPU), FEED) == usual
    assert usual != run(open_session(path, providers=CPU), FEED)


@pytest.mark.parametrize("wrong", [{"sess_options": 3}, {"providers": 3}])
def test_wrong_calls_fail_as_in_onnxruntime(tmp_path, wrong):
    path = model_of(tmp_path / "model.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], [array(np.float32)])
    theirs, ours = failure(onnxruntime.InferenceSession, path, **wrong), failure(open_session, path, **wrong)
    assert ours == theirs
    assert theirs is not None or not can_map_weights()  # earlier versions accept some with a warning


def failure(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except Exception as error:  # noqa: BLE001 - which one it is, is what is asked
        return type(error), str(error)
    return None


def test_profile_is_written_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = model_of(tmp_path / "model.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], [array(np.float32)])
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    session = open_session(path, options, CPU)
    session.run(None, FEED)
    written = Path(session.end_profiling())
    assert [file.name for file in tmp_path.glob("*.json")] == [written.name]
    assert any(event.get("cat") == "Node" for event in json.loads(written.read_text()))


def test_model_loads_while_hooks_are_inactive(zoo_export, tmp_path):
    import torch
    from optimum.onnxruntime import ORTModelForMaskedLM, modeling

    from optimum_htp import activate, deactivate

    file = Path(shutil.copytree(zoo_export("bert").output, tmp_path / "out")) / "model.onnx"
    ids = {"input_ids": torch.ones(1, 4, dtype=torch.long), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    before = ORTModelForMaskedLM.from_pretrained(file)(**ids).logits
    loaded, failed, stop = [], [], threading.Event()

    def load():
        while not stop.is_set():
            try:
                loaded.append(ORTModelForMaskedLM.from_pretrained(file)(**ids).logits)
            except (OSError, ValueError) as error:  # without hooks, Optimum handles the path as a repo
                failed.append(error)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for _ in range(5):
            deactivate()
            threading.Event().wait(0.02)
            activate()
            threading.Event().wait(0.1)
    finally:
        stop.set()
        thread.join()
        activate()
    assert loaded
    assert all(torch.equal(logits, before) for logits in loaded)
    assert modeling.InferenceSession is onnxruntime.InferenceSession
