"""Models load from their ONNX files alone, in an empty folder without Hub and cache, with sockets forbidden.

Their outputs are checked against PyTorch, which loads the model's own folder in the same process.
"""

from __future__ import annotations

import sys

import pytest
import transformers

from tests.support.alone import moved, run_alone
from tests.support.zoo import ZOO

pytestmark = pytest.mark.slow

ZOO_LOADS = """
import optimum.onnxruntime
from optimum_htp import OptimumONNXModel
for name, (file, cls, preprocessors) in {files!r}.items():
    model, preprocessor = OptimumONNXModel.from_onnx(file)
    assert isinstance(model, getattr(optimum.onnxruntime, cls)), (name, type(model))
    assert preprocessor is not None and len(model.preprocessors) == preprocessors, name
    if model.can_generate():
        assert model.generation_config.transformers_version, name  # the model's own, not a default one
print("all")
"""


def test_all_architectures_load_with_their_preprocessors(zoo_export, tmp_path):
    from optimum_htp.metadata import read_record

    files = {}
    for name, animal in ZOO.items():
        file = moved(zoo_export(name).output, tmp_path / name)
        files[name] = str(file), animal.ort_class, len(read_record(file).preprocessors)
    assert all(count for _, _, count in files.values())
    assert run_alone(ZOO_LOADS.format(files=files), tmp_path / "home").endswith("all\n")


PIPELINES = """
import numpy as np
from optimum.pipelines import pipeline as optimum_pipeline
from PIL import Image
from transformers import pipeline

sound = np.sin(np.arange(16_000) ** 1.2 / 20).astype("float32")
picture = Image.fromarray((np.arange(32 * 32 * 3) ** 2 % 255).astype("uint8").reshape(32, 32, 3))
given = {{"sound": sound, "picture": picture, "text": "the small cat ran", "masked": "a [MASK] cat"}}

def close(mine, theirs):
    if isinstance(theirs, (list, dict)):
        keys = range(len(theirs)) if isinstance(theirs, list) else theirs
        return len(mine) == len(theirs) and all(close(mine[key], theirs[key]) for key in keys)
    if isinstance(theirs, (float, np.floating)):
        return abs(mine - theirs) < 1e-3
    if isinstance(theirs, Image.Image):
        return np.abs(np.asarray(mine, int) - np.asarray(theirs, int)).max() <= 1
    return mine == theirs

for name, (file, folder, task, what, options) in {pipelines!r}.items():
    theirs = pipeline(task, model=folder)(given[what], **options)
    for make, loading in ((pipeline, {{}}), (optimum_pipeline, {{"accelerator": "ort"}})):
        mine = make(task, model=file, **loading)(given[what], **options)
        assert close(mine, theirs), (name, make.__module__, mine, theirs)
print("all")
"""
SHORT = {"generate_kwargs": {"max_new_tokens": 5}}
TASKS = {
    "whisper": ("automatic-speech-recognition", "sound", SHORT),
    "wavlm": ("audio-classification", "sound", {}),
    "resnet": ("image-classification", "picture", {}),
    "swin2sr": ("image-to-image", "picture", {}),
    "trocr": ("image-to-text", "picture", SHORT),
    "gpt2": ("text-generation", "text", {"max_new_tokens": 5, "do_sample": False}),
    "bart": ("text2text-generation", "text", {"max_new_tokens": 5}),
    "bert": ("fill-mask", "masked", {}),
    "roberta": ("text-classification", "text", {"top_k": None}),
    "deberta-v2": ("token-classification", "text", {}),
    "albert": ("feature-extraction", "text", {}),
}


def test_both_pipeline_functions_match_pytorch(zoo_export, exported, model_folder, tmp_path):
    ctc = moved(exported("wav2vec2"), tmp_path / "wav2vec2")
    pipelines = {"wav2vec2": (str(ctc), str(model_folder("wav2vec2")), "automatic-speech-recognition", "sound", {})}
    supported = transformers.pipelines.get_supported_tasks()
    kept = {name: about for name, about in TASKS.items() if about[0] in supported}  # transformers 5 removed some
    assert len(kept) >= 8
    for name, (task, what, options) in kept.items():
        made = zoo_export(name)
        pipelines[name] = str(moved(made.output, tmp_path / name)), str(made.model), task, what, options
    assert run_alone(PIPELINES.format(pipelines=pipelines), tmp_path / "home").endswith("all\n")


SENTENCES = """
from sentence_transformers import SentenceTransformer
texts = ["a cat sat on the mat", "the dog ran"]
mine = SentenceTransformer({folder!r}, backend="onnx")
theirs = SentenceTransformer({model!r}, device="cpu")
assert [type(one).__name__ for one in mine] == [type(one).__name__ for one in theirs] == [
    "Transformer", "Pooling", "Normalize"
]
assert abs(mine.encode(texts) - theirs.encode(texts)).max() < 1e-5
print("all")
"""


def test_sentence_transformer_matches_pytorch(exported, model_folder, tmp_path):
    file = moved(exported("minilm"), tmp_path / "minilm")
    code = SENTENCES.format(folder=str(file.parent), model=str(model_folder("minilm")))
    assert run_alone(code, tmp_path / "home", python=sys.executable).endswith("all\n")


DIFFUSION = """
import numpy as np, torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from optimum.onnxruntime import ORTDiffusionPipeline, ORTPipelineForImage2Image
from optimum_htp import OptimumONNXModel

def images(pipe):
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return pipe("a b c", num_inference_steps=2, output_type="np", height=16, width=16, latents=latents).images

theirs = StableDiffusionPipeline.from_pretrained({model!r})
pipelines = [ORTDiffusionPipeline.from_pretrained({folder!r}), OptimumONNXModel.from_onnx({file!r})[0]]
for mine in pipelines:
    assert type(mine.scheduler) is DDIMScheduler and dict(mine.scheduler.config) == dict(theirs.scheduler.config)
    assert mine.tokenizer("a b").input_ids == theirs.tokenizer("a b").input_ids
    assert mine.unet.config.cross_attention_dim == theirs.unet.config.cross_attention_dim
    assert np.abs(images(mine) - images(theirs)).max() < 1e-4
assert ORTPipelineForImage2Image.from_pretrained({folder!r}).vae_decoder is not None
print("all")
"""


@pytest.mark.parametrize("source", ["hub", "local"])
def test_diffusion_pipeline_matches_pytorch(source, model_folder, made_once, hub, tmp_path):
    pytest.importorskip("diffusers")
    from optimum_htp import HTPExporter

    model = model_folder("stable_diffusion")
    hub.add("tiny/diffusion", model, pipeline_tag="text-to-image", library_name="diffusers")
    name = "tiny/diffusion" if source == "hub" else model
    output = made_once(f"diffusion/{source}", lambda folder: HTPExporter().export(name, folder))
    file = moved(output, tmp_path / "pipeline")
    code = DIFFUSION.format(folder=str(tmp_path / "pipeline"), file=str(file), model=str(model))
    assert run_alone(code, tmp_path / "home", python=sys.executable).endswith("all\n")
