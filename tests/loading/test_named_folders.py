"""Folders of files with a record: the user's selection and saved files are used."""

from __future__ import annotations

import shutil

import pytest
import transformers
from optimum.onnxruntime import (
    ORTModelForFeatureExtraction,
    ORTModelForSequenceClassification,
    ORTQuantizer,
)
from optimum.onnxruntime.configuration import AutoQuantizationConfig
from optimum.pipelines import pipeline
from transformers import AutoTokenizer, GenerationConfig

from optimum_htp import HTPExporter, OptimumONNXModel
from optimum_htp.errors import SeveralModelsError
from optimum_htp.stamping.embed import unembed_files


@pytest.fixture
def folder(exported, tmp_path):
    """Two files of one model, of which one is selected by name."""
    for name in ("model.onnx", "model_other.onnx"):
        shutil.copy(exported("bert") / "model.onnx", tmp_path / name)
    return tmp_path


def opened(model):
    return str(model.session._model_path)


def test_file_name_in_model_kwargs_is_the_one_that_runs(folder):
    run = pipeline(model=str(folder), model_kwargs={"file_name": "model_other.onnx"}, accelerator="ort")
    assert opened(run.model) == str(folder / "model_other.onnx")
    assert run("the cat")[0]["label"].startswith("LABEL")


def test_subfolder_in_model_kwargs_is_searched(folder, tmp_path):
    (folder / "onnx").mkdir()
    (folder / "model_other.onnx").rename(folder / "onnx" / "model.onnx")
    run = pipeline(model=str(folder), model_kwargs={"subfolder": "onnx"}, accelerator="ort")
    assert opened(run.model) == str(folder / "onnx" / "model.onnx")


def test_file_name_that_contradicts_the_path_is_rejected(folder):
    for load in (OptimumONNXModel.from_pretrained, OptimumONNXModel.from_onnx):
        with pytest.raises(ValueError, match=r"Remove file_name='model_other\.onnx'"):
            load(folder / "model.onnx", file_name="model_other.onnx")


def test_tokenizer_saved_into_the_folder_is_loaded(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<mine>"])
    tokenizer.save_pretrained(folder)
    assert "<mine>" in AutoTokenizer.from_pretrained(folder).get_vocab()
    assert "<mine>" in pipeline(model=str(folder), accelerator="ort").tokenizer.get_vocab()
    # The file's own embedded files are those of its export.
    assert "<mine>" not in AutoTokenizer.from_pretrained(folder / "model.onnx").get_vocab()


def test_generation_config_saved_into_the_folder_is_loaded(exported, tmp_path):
    shutil.copy(exported("gpt2") / "model.onnx", tmp_path)
    GenerationConfig(max_new_tokens=7).save_pretrained(tmp_path)
    assert GenerationConfig.from_pretrained(tmp_path).max_new_tokens == 7


def test_tokenizer_loads_from_a_folder_of_several_models(folder):
    AutoTokenizer.from_pretrained(folder / "model.onnx").save_pretrained(folder)
    (folder / "model.onnx").rename(folder / "model_fp16.onnx")
    assert AutoTokenizer.from_pretrained(folder).tokenize("the cat") == ["the", "cat"]
    with pytest.raises(SeveralModelsError, match="contains 2 models"):
        ORTModelForSequenceClassification.from_pretrained(folder)


def test_quantizer_works_without_a_config(model_folder, tmp_path):
    """Optimum warns without a config, and quantizes."""
    HTPExporter().export(model_folder("bert"), tmp_path / "out", task="text-classification", embed="none")
    (tmp_path / "alone").mkdir()
    shutil.copy(tmp_path / "out" / "model.onnx", tmp_path / "alone")
    unembed_files(tmp_path / "alone" / "model.onnx")
    quantizer = ORTQuantizer.from_pretrained(tmp_path / "alone", file_name="model.onnx")
    quantizer.quantize(AutoQuantizationConfig.avx2(is_static=False), save_dir=tmp_path / "quantized")
    assert (tmp_path / "quantized" / "model_quantized.onnx").is_file()


def test_load_inside_a_load_gets_its_own_files(exported, tmp_path):
    """Another load uses the hooked search for files too."""
    whole = tmp_path / "with-configs"
    ORTModelForSequenceClassification.from_pretrained(exported("bert") / "model.onnx").save_pretrained(whole)
    inner = []

    class Outer(ORTModelForFeatureExtraction):
        def __init__(self, **options):
            super().__init__(**options)
            inner.append(ORTModelForSequenceClassification.from_pretrained(whole))

    Outer.from_pretrained(exported("minilm") / "model.onnx")
    assert opened(inner[0]) == str(whole / "model.onnx")


def test_missing_preprocessors_come_from_the_file(exported):
    file = exported("wav2vec2") / "model.onnx"
    mine = AutoTokenizer.from_pretrained(file)
    run = pipeline(model=str(file), tokenizer=mine, accelerator="ort")
    assert run.tokenizer is mine
    assert run.feature_extractor is not None


def test_requested_slow_tokenizer_is_loaded(exported):
    file = str(exported("bert") / "model.onnx")
    assert pipeline(model=file, accelerator="ort").tokenizer.is_fast
    slow = pipeline(model=file, use_fast=False, accelerator="ort").tokenizer
    assert slow.is_fast is hasattr(transformers, "TokenizersBackend")  # transformers 5 has one class for both


def test_config_of_a_repo_is_of_the_requested_revision(hub, exported, model_folder, tmp_path):
    repo = hub.add("other/labels", model_folder("bert"))
    repo.refs["v1"] = repo.refs["main"]
    files = repo.commits[repo.refs["main"]]
    repo.commit({**files, "config.json": files["config.json"].replace(b"LABEL 0", b"CHANGED")})
    file = exported("bert") / "model.onnx"
    load = ORTModelForSequenceClassification.from_pretrained
    assert load(file, config="other/labels", cache_dir=tmp_path).config.id2label[0] == "CHANGED"
    assert load(file, config="other/labels", revision="v1", cache_dir=tmp_path).config.id2label[0] == "LABEL 0"
