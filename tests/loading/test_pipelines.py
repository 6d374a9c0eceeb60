"""Pipelines on a file, or on a model loaded from one, without a given tokenizer."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import transformers
from optimum.onnxruntime import ORTModelForCTC, ORTModelForSequenceClassification
from optimum.pipelines import pipeline
from PIL import Image

from optimum_htp.errors import PreprocessorLoadError
from tests.conftest import run_python
from tests.support.marks import slowly, text2text

INPUTS = {
    "bert": "the big cat sat on the mat",
    "gpt2": "the cat",
    "t5": "the cat",
    "wav2vec2": np.random.default_rng(0).standard_normal(16_000, dtype=np.float32),
    "vit": Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), "uint8")),
}


@pytest.fixture(scope="module")
def reference(model_folder):
    """PyTorch's outputs."""

    def answer(name, task, **options):
        return transformers.pipeline(task, model=str(model_folder(name)))(INPUTS[name], **options)

    return answer


@pytest.mark.parametrize("make", [pipeline, transformers.pipeline])
def test_task_of_a_loaded_model_can_be_omitted(make, exported, reference):
    classify = make(model=ORTModelForSequenceClassification.from_pretrained(exported("bert") / "model.onnx"))
    (answer,), (expected,) = classify(INPUTS["bert"]), reference("bert", "text-classification")
    assert answer["label"] == expected["label"]
    assert answer["score"] == pytest.approx(expected["score"], abs=1e-4)


@pytest.mark.parametrize("make", [pipeline, transformers.pipeline])
@pytest.mark.parametrize("inside", [None, "of the model"])
@pytest.mark.parametrize("given", [True, False])
def test_task_can_be_omitted(given, inside, make, exported, reference, tmp_path):
    options = {"task": "text-classification"} if given else {}
    source = exported("bert") / "model.onnx"
    if inside is not None:
        shutil.copytree(source.parent, tmp_path / inside)
        source, options["model_kwargs"] = tmp_path, {"subfolder": inside}
    if make is pipeline:
        options["accelerator"] = "ort"
    classify = make(model=str(source), **options)
    (answer,), (expected,) = classify(INPUTS["bert"]), reference("bert", "text-classification")
    assert answer["label"] == expected["label"]
    assert answer["score"] == pytest.approx(expected["score"], abs=1e-4)


@pytest.mark.parametrize(
    ("name", "task", "options"),
    [
        ("gpt2", "text-generation", {"max_new_tokens": 6, "do_sample": False}),
        pytest.param(
            "t5",
            "text2text-generation",
            {"max_new_tokens": 6, "do_sample": False},
            marks=text2text,
        ),
        ("wav2vec2", "automatic-speech-recognition", {}),
    ],
)
def test_other_tasks_match_pytorch(name, task, options, exported, reference):
    file = sorted(exported(name).glob("*.onnx"))[0]
    assert pipeline(task, model=str(file), accelerator="ort")(INPUTS[name], **options) == reference(
        name, task, **options
    )


@pytest.mark.parametrize("prefix", ["", "onnx/"])
@pytest.mark.parametrize("without", [(), ("architectures",)])
def test_repo_with_a_config_matches_pytorch(prefix, without, exported, model_folder, reference, hub):
    """Optimum loads it itself, and the model gets its preprocessors too."""
    files = {path.name: path.read_bytes() for path in model_folder("wav2vec2").iterdir()}
    config = json.loads(files["config.json"])
    files["config.json"] = json.dumps({name: config[name] for name in config if name not in without}).encode()
    onnx = {f"{prefix}model.onnx": (exported("wav2vec2") / "model.onnx").read_bytes()}
    repo_id = f"shipped/sounds{bool(prefix)}{bool(without)}"
    hub.add(repo_id, onnx | {name: body for name, body in files.items() if not name.endswith(".safetensors")})
    expected = reference("wav2vec2", "automatic-speech-recognition")
    assert pipeline("automatic-speech-recognition", model=repo_id)(INPUTS["wav2vec2"]) == expected
    model = ORTModelForCTC.from_pretrained(repo_id)
    assert pipeline("automatic-speech-recognition", model=model)(INPUTS["wav2vec2"]) == expected


def test_images_are_prepared_as_in_pytorch(exported, reference):
    (best, *_), (expected, *_) = (
        pipeline(model=str(exported("vit") / "model.onnx"), accelerator="ort")(INPUTS["vit"]),
        reference("vit", "image-classification"),
    )
    assert best["label"] == expected["label"]
    assert best["score"] == pytest.approx(expected["score"], abs=1e-4)


def test_loaded_model_provides_its_tokenizer(exported, reference):
    model = ORTModelForSequenceClassification.from_pretrained(exported("bert") / "model.onnx")
    (answer,) = transformers.pipeline("text-classification", model=model)(INPUTS["bert"])
    assert answer["label"] == reference("bert", "text-classification")[0]["label"]


def test_given_tokenizer_is_used(exported, model_folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder("bert"))
    model = ORTModelForSequenceClassification.from_pretrained(exported("bert") / "model.onnx")
    assert transformers.pipeline("text-classification", model=model, tokenizer=tokenizer).tokenizer is tokenizer


def test_preprocessors_of_a_file_are_loaded_once(exported):
    made = transformers.pipeline(model=str(exported("bert") / "model.onnx"))
    assert made.tokenizer is made.model.preprocessors[0]


def test_broken_tokenizer_is_reported_and_not_loaded_if_one_is_given(exported, model_folder, tmp_path):
    file = shutil.copy(exported("bert") / "model.onnx", tmp_path)
    for name in ("config.json", "tokenizer_config.json"):
        shutil.copy(model_folder("bert") / name, tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(PreprocessorLoadError, match="AutoTokenizer"):
        transformers.pipeline(model=str(file))
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder("bert"))
    assert transformers.pipeline(model=str(file), tokenizer=tokenizer).tokenizer is tokenizer


@pytest.mark.parametrize(
    "first",
    [
        "from optimum.pipelines import pipeline",
        "from transformers import pipeline",
        *slowly("from optimum.onnxruntime import pipeline", "import transformers; pipeline = transformers.pipeline"),
    ],
)
def test_works_with_any_first_import(first, exported):
    code = (
        f"{first}\nprint(pipeline('text-classification', model={str(exported('bert') / 'model.onnx')!r})('the cat'))"
    )
    assert "LABEL" in run_python(code, forked=True).stdout


@pytest.mark.slow
def test_other_pipelines_work_as_before(model_folder, exported):
    code = f"""
from transformers import pipeline
print(pipeline("text-classification", model={str(model_folder("bert"))!r})("the cat"))
"""
    assert run_python(code).stdout == run_python(code, OPTIMUM_HTP_DISABLE="1").stdout
