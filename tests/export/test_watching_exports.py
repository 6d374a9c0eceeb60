"""Observation of an export does not affect other exports; its errors do not affect the observed one."""

from __future__ import annotations

import io
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import onnx
import pytest
import torch
from torch import nn

from optimum_htp import HTPExporter
from optimum_htp.errors import VerificationError
from optimum_htp.export.engines.optimum import _loaded_models
from optimum_htp.hierarchy import capture
from optimum_htp.hierarchy.capture import watched_exports
from optimum_htp.metadata import ExportMetadata
from optimum_htp.onnxfile import read_metadata

BATCH = (torch.ones(1, 3),)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 2)

    def forward(self, x):
        return self.inner(x).relu()


def export(model, **target):
    torch.onnx.export(model, BATCH, dynamo=False, **target)


def noted(parts):
    return sorted(parts._parts)


def test_other_threads_exports_into_the_folder_are_not_watched(tmp_path):
    mine, theirs = Net().eval(), Net().eval()
    before = torch.onnx.export
    with watched_exports(tmp_path, lambda: mine, wanted=True) as parts, ThreadPoolExecutor(1) as pool:
        pool.submit(export, theirs, f=str(tmp_path / "theirs.onnx")).result()
        assert noted(parts) == []
        export(mine, f=str(tmp_path / "mine.onnx"))
    assert noted(parts) == ["mine.onnx"]
    assert parts.faults == {}
    assert onnx.load(tmp_path / "theirs.onnx").graph.node
    assert torch.onnx.export is before


def test_other_threads_calls_of_the_same_modules_are_not_counted():
    model, started, stop = Net().eval(), threading.Event(), threading.Event()

    def call_again_and_again():
        while not stop.is_set():
            model(*BATCH)
            started.set()

    with ThreadPoolExecutor(1) as pool, capture._watched_calls(model) as calls:
        running = pool.submit(call_again_and_again)
        assert started.wait(10)
        model(*BATCH)
        stop.set()
        running.result(10)
    assert dict(calls) == {(): [""], ("inner",): ["inner"]}


def test_other_targets_go_through_untouched(tmp_path):
    model, buffer = Net().eval(), io.BytesIO()
    (tmp_path / "elsewhere").mkdir()
    with watched_exports(tmp_path / "here", lambda: model, wanted=True) as parts:
        export(model, f=buffer)
        torch.onnx.export(model, BATCH, buffer, dynamo=False)
        torch.onnx.export(model=model, args=BATCH, f=tmp_path / "elsewhere" / "a.onnx", dynamo=False)
        with pytest.raises(TypeError):
            torch.onnx.export()
        program = torch.onnx.export(model, BATCH, dynamo=True, verbose=False)
    assert onnx.load_from_string(buffer.getvalue()).graph.node
    assert (tmp_path / "elsewhere" / "a.onnx").is_file()
    assert program.model.graph.num_nodes()
    assert noted(parts) == []
    assert parts.faults == {}


def test_every_way_to_name_the_target_is_watched(tmp_path):
    model = Net().eval()
    with watched_exports(tmp_path, lambda: model, wanted=True) as parts:
        torch.onnx.export(model, BATCH, tmp_path / "position.onnx", dynamo=False)
        torch.onnx.export(model=model, args=BATCH, f=str(tmp_path / "name.onnx"), dynamo=False)
    assert noted(parts) == ["name.onnx", "position.onnx"]


def test_outer_wrapper_of_other_code_is_kept(tmp_path):
    original = torch.onnx.export
    try:
        with watched_exports(tmp_path, Net, wanted=True):
            inner = torch.onnx.export

            def theirs(*args, **kwargs):
                return inner(*args, **kwargs)

            torch.onnx.export = theirs
        assert torch.onnx.export is theirs
        export(Net().eval(), f=str(tmp_path / "later.onnx"))
    finally:
        torch.onnx.export = original


def test_model_that_another_thread_exports_with_optimum_is_not_taken_for_ours():
    import optimum.exporters.onnx.__main__ as module

    def theirs():
        with pytest.raises(TypeError):
            module.onnx_export_from_model(model="theirs", no_such_option=1)

    with _loaded_models() as models, ThreadPoolExecutor(1) as pool:
        pool.submit(theirs).result()
        assert models == []
        theirs()
        assert models == ["theirs"]


def break_tagging(monkeypatch, where):
    def broken(*_):
        raise IndexError("a fault on purpose")

    monkeypatch.setattr(capture, where, broken)


@pytest.mark.parametrize("where", ["assign", "module_tree", "read_graph"])
def test_fault_in_tagging_costs_the_tags_and_not_the_export(where, monkeypatch, model_folder, tmp_path, caplog):
    break_tagging(monkeypatch, where)
    with caplog.at_level(logging.WARNING):
        result = HTPExporter().export(model_folder("bert"), tmp_path / "out", do_validation=False)
    properties = read_metadata(result.files[0])
    assert ExportMetadata.from_properties(properties).task == "text-classification"
    assert "htp.modules" not in properties
    (warning,) = [one.getMessage() for one in caplog.records if "cannot be tagged" in one.getMessage()]
    assert "model.onnx cannot be tagged: reading the modules from PyTorch's export failed" in warning
    assert "IndexError: a fault on purpose" in warning


def test_fault_in_tagging_behind_the_export_costs_the_tags_too(monkeypatch, model_folder, tmp_path, caplog):
    def broken(*_):
        raise IndexError("a fault on purpose")

    monkeypatch.setattr("optimum_htp.export.stamped_files.TagWriter", broken)
    result = HTPExporter().export(model_folder("bert"), tmp_path / "out", do_validation=False)
    assert "htp.modules" not in read_metadata(result.files[0])
    assert "following its passes failed" in caplog.text


def test_failed_tagging_is_an_error_with_verify_hub(monkeypatch, published, tmp_path):
    break_tagging(monkeypatch, "assign")
    with pytest.raises(VerificationError, match=r"model\.onnx cannot be tagged.*on purpose.*--no-hierarchy"):
        HTPExporter().export(published("bert").repo_id, tmp_path / "out", verify_hub=True, do_validation=False)
    assert not (tmp_path / "out").exists()
