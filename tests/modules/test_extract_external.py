"""Modules extracted from models with external data: the data is copied, and belongs to the new model."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest

from optimum_htp import extract_module
from optimum_htp.errors import InvalidOnnxFileError
from tests.conftest import ROOT
from tests.support.external import save_external, weight_of
from tests.support.submodules import LAYER, observed, run
from tests.support.zoo import ZOO


@pytest.mark.parametrize("inline", [True, False])
def test_external_data_is_copied_as_it_is(zoo_export, tmp_path, inline, monkeypatch):
    path = zoo_export("bert").output / "model.onnx"
    model = onnx.load(path)
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    big, out = tmp_path / "big.onnx", tmp_path / "cut" / "layer.onnx"
    out.parent.mkdir()
    onnx.save(model, big, save_as_external_data=True, location="big.bin", size_threshold=64, convert_attribute=True)
    if not inline:
        monkeypatch.setattr("optimum_htp.onnxfile.submodel._MOST", 1000)
    extract_module(big, LAYER, out)
    written = {file.name for file in out.parent.iterdir()}
    assert written == ({"layer.onnx"} if inline else {"layer.onnx", "layer.onnx_data"})
    cut = onnx.load(out)
    assert len(cut.graph.initializer) > 10
    for tensor in cut.graph.initializer:
        assert np.array_equal(onnx.numpy_helper.to_array(tensor), weights[tensor.name])
    _, values = observed(ZOO["bert"], zoo_export("bert").model, path)
    assert all(np.allclose(one, values[name], atol=1e-6) for name, one in run(out, values).items())


@pytest.mark.skipif(os.name == "nt", reason="kills are POSIX's")
@pytest.mark.parametrize("how", ["fails", "is killed"])
def test_model_and_data_belong_together_where_the_second_file_is_not_written(tmp_path, how):
    """The data file is replaced first; an extraction that ends after it leaves the old model with the old data."""
    code = f"""
import os, signal
from pathlib import Path
from optimum_htp.modules.extract import extract_module
from optimum_htp.onnxfile import replace_file, submodel
from tests.support.external import save_external, weight_of

source, target = Path({str(tmp_path)!r}, "model.onnx"), Path({str(tmp_path)!r}, "e.onnx")
submodel._MOST = 0
for value in (1, 2, 3):
    extract_module(save_external(source, value), "a", target)
    print(weight_of(target)[0], len(os.listdir(source.parent)), end=" ")
save_external(source, 4)
calls = []
def stop():
    calls.append(1)
    if len(calls) == 2:
        print(weight_of(target)[0], end=" ", flush=True)
        if {how == "is killed"}:
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError("full")
replace_file.before_replacing.set(stop)
extract_module(source, "a", target)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "1.0 4 2.0 4 3.0 4 3.0 ", done.stderr
    assert weight_of(tmp_path / "e.onnx") == [3, 3, 3]
    if how == "fails":
        assert "Nothing was changed" in done.stderr
        assert len(list(tmp_path.iterdir())) == 4


def test_data_that_another_model_in_the_folder_uses_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("optimum_htp.onnxfile.submodel._MOST", 0)
    source, out, copy = (tmp_path / name for name in ("model.onnx", "e.onnx", "copy.onnx"))
    extract_module(save_external(source, 1), "a", out)
    shutil.copyfile(out, copy)
    for value in (2, 3):
        extract_module(save_external(source, value), "a", out)
        assert (weight_of(copy), weight_of(out)) == ([1] * 3, [value] * 3)
        assert len(list(tmp_path.iterdir())) == 6


def test_external_data_outside_or_truncated_is_rejected(zoo_export, tmp_path):
    model = onnx.load(zoo_export("bert").output / "model.onnx")
    big = tmp_path / "big.onnx"
    onnx.save(model, big, save_as_external_data=True, location="big.bin", size_threshold=64)
    os.truncate(tmp_path / "big.bin", 4096)
    with pytest.raises(InvalidOnnxFileError, match="do not match"):
        extract_module(big, LAYER, tmp_path / "out.onnx")
    lean = onnx.load(big, load_external_data=False)
    for tensor in lean.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../big.bin"
    (tmp_path / "inside").mkdir()
    onnx.save(lean, tmp_path / "inside" / "big.onnx")
    with pytest.raises(InvalidOnnxFileError, match="outside its folder"):
        extract_module(tmp_path / "inside" / "big.onnx", LAYER, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()
