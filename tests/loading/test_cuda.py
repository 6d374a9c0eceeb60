"""Files on a GPU: mapped weights, devices, pipelines, exports. Requires a GPU and onnxruntime-gpu."""

from __future__ import annotations

import copy
import logging
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import pytest
import torch

from optimum_htp import HTPExporter, OptimumONNXModel
from optimum_htp.extras.profile.running import profile_file
from optimum_htp.onnxfile import read_graph
from tests.support.animals import inputs
from tests.support.zoo import ZOO

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
EXACT = {"provider": CUDA, "provider_options": {"use_tf32": "0"}}
"""Options for a GPU session without TF32, whose results cannot be compared to those of the CPU."""
MAPPED = "optimum_htp.loading.mapped"

pytestmark = pytest.mark.skipif(
    CUDA not in onnxruntime.get_available_providers() or not torch.cuda.is_available(),
    reason="there is no GPU, or onnxruntime has no provider for it",
)


def sessions(model):
    parts = (getattr(model, name, None) for name in ("encoder", "decoder", "decoder_with_past"))
    return [part.session for part in parts if part is not None] or [model.session]


def on_gpu(model):
    return all(session.get_providers()[0] == CUDA for session in sessions(model)) and model.device.type == "cuda"


def batch_of(name):
    batch = inputs(ZOO[name])
    if ZOO[name].ort_class in ("ORTModelForSeq2SeqLM", "ORTModelForSpeechSeq2Seq"):
        batch["decoder_input_ids"] = torch.ones(2, 1, dtype=torch.long)
    return batch


def outputs(model, batch):
    found = model(**{name: value.to(model.device) for name, value in batch.items()})
    return {name: value.float().cpu().numpy() for name, value in found.items() if isinstance(value, torch.Tensor)}


def compared(ours, theirs, within):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert np.abs(value - theirs[name]).max() <= within, name


@pytest.mark.parametrize("name", ["bert", "swin", "resnet", "roberta", "gpt2", "t5", "whisper", "bart"])
def test_mapped_weights_give_the_same_outputs_on_a_gpu(zoo_export, name, caplog, monkeypatch):
    file = sorted(zoo_export(name).output.glob("*.onnx"))[0]
    batch = batch_of(name)
    caplog.set_level(logging.DEBUG, MAPPED)
    mapped = OptimumONNXModel.from_pretrained(file, **EXACT)
    assert not [record for record in caplog.records if record.name == MAPPED]
    assert on_gpu(mapped)
    computed = outputs(mapped, batch)
    compared(computed, outputs(OptimumONNXModel.from_pretrained(file), batch), 1e-2)
    monkeypatch.setenv("OPTIMUM_HTP_MMAP", "0")
    copied = OptimumONNXModel.from_pretrained(file, **EXACT)
    assert on_gpu(copied)
    compared(computed, outputs(copied, batch), 1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5", "bart"])
def test_tokens_generated_on_a_gpu_are_those_of_the_cpu(zoo_export, name):
    file = sorted(zoo_export(name).output.glob("*.onnx"))[0]
    batch = inputs(ZOO[name])
    found = []
    for place in (EXACT, {"provider": CPU}):
        model = OptimumONNXModel.from_pretrained(file, **place)
        settings = copy.deepcopy(model.generation_config)
        settings.update(max_new_tokens=8, do_sample=False)
        given = {name: value.to(model.device) for name, value in batch.items() if "decoder" not in name}
        found.append(model.generate(**given, generation_config=settings).cpu().tolist())
    assert found[0] == found[1]


def test_loads_in_many_threads_compute_the_same(zoo_export):
    """Each load opens encoder and decoder in parallel."""
    file = zoo_export("t5").output / "encoder_model.onnx"
    batch = batch_of("t5")

    def load(_):
        model = OptimumONNXModel.from_pretrained(file, provider=CUDA)
        assert on_gpu(model)
        return outputs(model, batch)

    with ThreadPoolExecutor(4) as threads:
        first, *others = threads.map(load, range(24))
    for other in others:
        compared(other, first, 1e-5)


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_device_of_from_onnx_is_where_the_model_is(zoo_export, device):
    model, tokenizer = OptimumONNXModel.from_onnx(zoo_export("bert").output / "model.onnx", device=device)
    assert on_gpu(model)
    assert model.device == torch.device("cuda:0")
    assert model(**tokenizer("a b c", return_tensors="pt").to("cuda")).logits.is_cuda


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_model_moves_to_the_gpu_and_back(zoo_export, name):
    model = OptimumONNXModel.from_pretrained(sorted(zoo_export(name).output.glob("*.onnx"))[0])
    batch = batch_of(name)
    before = outputs(model, batch)
    model.to("cuda")
    assert on_gpu(model)
    loaded_there = OptimumONNXModel.from_pretrained(model.encoder.path if name == "t5" else model.path, provider=CUDA)
    compared(outputs(model, batch), outputs(loaded_there, batch), 1e-5)
    model.to("cpu")
    assert sessions(model)[0].get_providers() == [CPU]
    compared(outputs(model, batch), before, 1e-5)


@pytest.mark.parametrize("device", [0, "cuda", "cuda:0", torch.device("cuda", 0)])
def test_pipeline_of_a_file_runs_on_its_device(exported_here, device):
    from transformers import pipeline

    onnx_pipeline = pipeline(model=str(exported_here), device=device)
    assert onnx_pipeline.device.type == "cuda"
    assert on_gpu(onnx_pipeline.model)
    expected = pipeline(model=str(exported_here), device="cpu")("a b c")
    assert onnx_pipeline("a b c")[0]["label"] == expected[0]["label"]


@pytest.fixture(scope="module")
def exported_here(published, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported-here")
    HTPExporter().export(published("bert").repo_id, folder)
    return folder / "model.onnx"


@pytest.mark.parametrize("dtype", [None, "fp16"])
def test_export_on_a_gpu_equals_one_on_the_cpu(published, exported_here, tmp_path, dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = HTPExporter().export(published("bert").repo_id, tmp_path, device="cuda", dtype=dtype)
    (file,) = result.files
    there, here = read_graph(file), read_graph(exported_here)
    tags = [{node.metadata.get("htp.module") for node in graph.nodes} for graph in (there, here)]
    assert tags[0] == tags[1]
    model = OptimumONNXModel.from_pretrained(file, provider=CUDA)
    batch = {name: value.to("cuda") for name, value in inputs(ZOO["bert"]).items()}
    assert model.dtype == (torch.float16 if dtype else torch.float32)
    expected = OptimumONNXModel.from_pretrained(exported_here)
    compared(outputs(model, batch), outputs(expected, batch), 2e-2)


def test_profile_times_nodes_on_the_gpu(exported_here):
    profile = profile_file(exported_here, runs=3, provider=CUDA)
    assert profile.provider == CUDA
    assert profile.total > 0


@pytest.mark.slow
def test_pipeline_of_images_runs_on_a_gpu(model_folder, hub, tmp_path):
    pytest.importorskip("diffusers")
    from optimum.onnxruntime import ORTStableDiffusionPipeline

    hub.add("tiny/on-gpu", model_folder("stable_diffusion"), pipeline_tag="text-to-image", library_name="diffusers")
    HTPExporter().export("tiny/on-gpu", tmp_path)
    found = []
    for provider in (CUDA, CPU):
        pipe = ORTStableDiffusionPipeline.from_pretrained(tmp_path, provider=provider)
        assert pipe.unet.session.get_providers()[0] == provider
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        options = {"num_inference_steps": 2, "output_type": "np", "height": 16, "width": 16}
        found.append(pipe("a b c", latents=latents, **options).images)
    assert np.abs(found[0] - found[1]).max() < 1e-2
