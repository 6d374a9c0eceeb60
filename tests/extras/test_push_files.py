"""The files of a push, and their places in the repo."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest
from huggingface_hub import ModelCard
from optimum.onnxruntime import (
    ORTDiffusionPipeline,
    ORTModelForSequenceClassification,
    ORTQuantizer,
)
from optimum.onnxruntime.configuration import AutoQuantizationConfig

from optimum_htp import HTPExporter
from optimum_htp.errors import (
    ArgumentError,
    InvalidOnnxFileError,
)
from optimum_htp.extras.endpoint.folder import write_endpoint
from optimum_htp.extras.push.pushing import push
from optimum_htp.onnxfile import rewrite_model
from tests.support.pushes import pushed_files


@pytest.mark.slow
def test_pipeline_of_several_folders_keeps_its_layout(org, model_folder, writer, tmp_path):
    pytest.importorskip("diffusers")
    org.add("tiny/diffusion", model_folder("stable_diffusion"), pipeline_tag="text-to-image", library_name="diffusers")
    HTPExporter().export("tiny/diffusion", tmp_path / "out")
    push([tmp_path / "out"], "me/model", access=writer)
    assert "unet/model.onnx" in pushed_files(org)
    assert ORTDiffusionPipeline.from_pretrained("me/model", cache_dir=tmp_path / "fresh").unet is not None


def test_external_data_is_pushed_but_no_file_outside_the_folder(org, bert, writer, tmp_path):
    model = onnx.load(bert)
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    push([tmp_path / "model.onnx"], "me/model", layout="transformers.js", access=writer)
    assert "onnx/weights" in pushed_files(org)
    (tmp_path / "model.onnx").rename(tmp_path / "other.onnx")
    push([tmp_path / "other.onnx"], "me/renamed", layout="transformers.js", access=writer)
    assert {"onnx/model.onnx", "onnx/model.onnx_data"} <= set(pushed_files(org, "me/renamed"))
    for repo_id in ("me/model", "me/renamed"):
        named = {"cache_dir": tmp_path / "fresh", "subfolder": "onnx"}
        if repo_id == "me/renamed":  # Optimum downloads data with this name only
            assert ORTModelForSequenceClassification.from_pretrained(repo_id, **named).config.num_labels == 3
    evil = onnx.load(tmp_path / "other.onnx", load_external_data=False)
    for item in evil.graph.initializer[0].external_data:
        if item.key == "location":
            item.value = "../secret"
    (tmp_path / "evil").mkdir()
    (tmp_path / "secret").write_text("token")
    (tmp_path / "evil" / "model.onnx").write_bytes(evil.SerializeToString())
    with pytest.raises(InvalidOnnxFileError, match="outside its folder"):
        push([tmp_path / "evil"], "me/evil", access=writer)
    assert "me/evil" not in org.repos


@pytest.mark.parametrize("name", ["vocab.txt", "README.md"])
def test_link_to_another_folder_is_not_published(org, bert, writer, tmp_path, name):
    """Foreign folders (clones, archives) may have links to any file."""
    folder, cached = tmp_path / "out", tmp_path / "cached"
    for place in (folder, cached):
        place.mkdir()
    shutil.copy(bert, folder)
    (tmp_path / "secret").write_text("secret")
    (folder / name).symlink_to(tmp_path / "secret")
    with pytest.raises(ArgumentError, match=rf"{name} is a link to"):
        push([folder], "me/model", access=writer)
    assert "me/model" not in org.repos
    for path in (bert, tmp_path / "secret"):  # as in the Hub's cache
        (tmp_path / "blobs").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "blobs")
    (cached / "model.onnx").symlink_to(tmp_path / "blobs" / "model.onnx")
    (cached / name).symlink_to(tmp_path / "blobs" / "secret")
    assert name in push([cached], "me/model", access=writer).files


def test_endpoint_takes_no_link_to_another_folder_along(bert, model_folder, tmp_path):
    (tmp_path / "out").mkdir()
    shutil.copy(bert, tmp_path / "out")
    (tmp_path / "out" / "config.json").symlink_to(model_folder("bert") / "config.json")
    with pytest.raises(ArgumentError, match=r"config\.json is a link to"):
        write_endpoint(tmp_path / "out", tmp_path / "endpoint")
    assert not (tmp_path / "endpoint").exists()


def test_layout_of_transformers_js(org, bert, writer, tmp_path):
    quantizer = ORTQuantizer.from_pretrained(bert.parent)
    quantizer.quantize(AutoQuantizationConfig.avx2(is_static=False, per_channel=False), save_dir=tmp_path / "q")
    shutil.copy(tmp_path / "q" / "model_quantized.onnx", tmp_path / "small.onnx")
    push([bert, tmp_path / "small.onnx"], "me/model", layout="transformers.js", access=writer)
    files = pushed_files(org)
    assert {"onnx/model.onnx", "onnx/model_quantized.onnx", "config.json", "tokenizer.json"} <= set(files)
    assert ModelCard(files["README.md"].decode()).data.tags == ["onnx", "transformers.js"]
    cache = {"cache_dir": tmp_path / "fresh"}
    for name in ("model.onnx", "model_quantized.onnx"):
        model = ORTModelForSequenceClassification.from_pretrained(
            "me/model", subfolder="onnx", file_name=name, **cache
        )
        assert model.config.id2label[0] == "LABEL 0"
    with pytest.raises(ArgumentError, match=r"would both be onnx/model.onnx"):
        push([bert, shutil.copy(bert, tmp_path / "twin.onnx")], "me/two", layout="transformers.js", access=writer)


def test_paths_of_the_machine_in_a_pushed_file_are_reported(org, bert, writer, tmp_path, caplog):
    push([bert], "me/model", access=writer)
    assert "stack traces" not in caplog.text
    path = Path(shutil.copy(bert, tmp_path))
    trace = {"pkg.torch.onnx.stack_trace": "File /home/me/model.py, line 7"}
    rewrite_model(path, nodes=lambda known: {**known, **trace}, ir_version=10)
    push([path], "me/traced", access=writer)
    assert f"`optimum-cli htp strip --stack-traces {path}`" in caplog.text
