"""Diffusion pipelines load from their ONNX files alone."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from optimum_htp import HTPExporter, OptimumONNXModel, unembed_files
from optimum_htp.errors import ConfigLoadError, MissingSiblingError

pytest.importorskip("diffusers")
PARTS = ["text_encoder/model.onnx", "unet/model.onnx", "vae_decoder/model.onnx", "vae_encoder/model.onnx"]


@pytest.fixture(scope="module")
def pipeline(published_diffusion, tmp_path_factory):
    output = tmp_path_factory.mktemp("diffusion") / "out"
    HTPExporter().export("tiny/diffusion", output)
    return output


@pytest.fixture(scope="module")
def published_diffusion(model_folder):
    from tests.conftest import _HUB

    folder = model_folder("stable_diffusion")
    _HUB.add("tiny/diffusion", folder, pipeline_tag="text-to-image", library_name="diffusers")
    return folder


@pytest.fixture
def copy(pipeline, tmp_path):
    """A copy of the files for changes."""
    for name in PARTS:
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes((pipeline / name).read_bytes())
    return tmp_path


def images(pipe):
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return pipe("a b c", num_inference_steps=2, output_type="np", height=16, width=16, latents=latents).images


def files_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_export_writes_nothing_but_onnx_files(pipeline):
    assert files_below(pipeline) == PARTS


@pytest.mark.slow
def test_images_are_those_of_the_pipeline(pipeline, published_diffusion, hub, tmp_path):
    from diffusers import StableDiffusionPipeline
    from optimum.onnxruntime import ORTDiffusionPipeline, ORTStableDiffusionPipeline

    ours = ORTDiffusionPipeline.from_pretrained(pipeline, cache_dir=tmp_path / "cache")
    assert type(ours) is ORTStableDiffusionPipeline
    reference = images(StableDiffusionPipeline.from_pretrained(published_diffusion))
    assert np.abs(images(ours) - reference).max() < 1e-4
    ours.save_pretrained(tmp_path / "saved")
    assert np.abs(images(ORTDiffusionPipeline.from_pretrained(tmp_path / "saved")) - reference).max() < 1e-4
    with hub.recorded() as requests:
        options = {"cache_dir": tmp_path / "cache", "local_files_only": True}
        ORTStableDiffusionPipeline.from_pretrained(pipeline / "unet" / "model.onnx", **options)
    assert requests == []


def test_class_is_selected(pipeline):
    model, tokenizer = OptimumONNXModel.from_onnx(pipeline)
    assert type(model).__name__ == "ORTStableDiffusionPipeline"
    assert tokenizer("a b").input_ids


@pytest.mark.parametrize("task", ["Text2Image", "Image2Image", "Inpainting"])
def test_class_of_a_task_loads_the_files_too(pipeline, task, tmp_path):
    import optimum.onnxruntime

    cls = getattr(optimum.onnxruntime, f"ORTPipelineFor{task}")
    pipe = cls.from_pretrained(pipeline, cache_dir=tmp_path)
    assert type(pipe) in cls.ort_pipelines_mapping.values()
    assert pipe.tokenizer("a b").input_ids
    again = cls.from_pretrained(pretrained_model_or_path=pipeline / "unet" / "model.onnx", cache_dir=tmp_path)
    assert type(again) is type(pipe)


def test_part_with_external_data(copy):
    unet = onnx.load(copy / "unet" / "model.onnx")
    options = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    onnx.save(unet, copy / "unet" / "model.onnx", **options)
    assert images(OptimumONNXModel.from_pretrained(copy)).shape == (1, 16, 16, 3)


def test_repo_of_the_files(pipeline, hub, tmp_path):
    from optimum.onnxruntime import ORTDiffusionPipeline

    hub.add("shipped/diffusion", pipeline)
    pipe = ORTDiffusionPipeline.from_pretrained("shipped/diffusion", cache_dir=tmp_path)
    assert type(pipe).__name__ == "ORTStableDiffusionPipeline"


def test_missing_part_is_named(copy):
    (copy / "text_encoder" / "model.onnx").unlink()
    with pytest.raises(MissingSiblingError, match="text_encoder"):
        OptimumONNXModel.from_pretrained(copy)


def test_only_image_pipelines_need_the_image_encoder(copy):
    from optimum.onnxruntime import ORTDiffusionPipeline, ORTPipelineForImage2Image

    (copy / "vae_encoder" / "model.onnx").unlink()
    assert images(ORTDiffusionPipeline.from_pretrained(copy)).shape == (1, 16, 16, 3)
    with pytest.raises(MissingSiblingError, match="vae_encoder"):
        ORTPipelineForImage2Image.from_pretrained(copy)


def test_local_pipeline_keeps_its_configs(published_diffusion, tmp_path):
    HTPExporter().export(published_diffusion, tmp_path / "out")
    assert "model_index.json" in files_below(tmp_path / "out")
    (tmp_path / "out" / "model_index.json").unlink()
    assert (
        OptimumONNXModel.from_pretrained(tmp_path / "out").tokenizer("a b").input_ids
    )  # the configs are embedded too
    unembed_files(tmp_path / "out" / "unet" / "model.onnx")
    with pytest.raises(ConfigLoadError, match="local pipeline"):
        OptimumONNXModel.from_pretrained(tmp_path / "out")
