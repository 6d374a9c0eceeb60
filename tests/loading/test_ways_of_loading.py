"""All ways of loading give the same output: files with adjacent configs, names, URLs and pipelines."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import transformers
from optimum.onnxruntime import (
    ORTModelForSeq2SeqLM,
    ORTModelForSequenceClassification,
    pipeline,
)
from transformers import AutoConfig, AutoTokenizer

import optimum_htp
from optimum_htp.errors import (
    OfflineError,
    OnnxFileNotFoundError,
    OptimumHTPError,
)
from tests.support.loads import quantized


@pytest.fixture
def moved(hub):
    """Commit another vocabulary and config to the main branch of a repo."""

    def move(repo_id):
        repo = hub.repos[repo_id]
        files = dict(repo.commits[repo.refs["main"]])
        for name, content in files.items():
            if name in ("vocab.txt", "tokenizer.json"):
                files[name] = content.replace(b'"cat"', b'"cow"').replace(b"\ncat\n", b"\ncow\n")
            if name == "preprocessor_config.json":
                files[name] = json.dumps({**json.loads(content), "image_mean": [0.9, 0.9, 0.9]}).encode()
        repo.commit(files)

    return move


@pytest.fixture
def out(exported, tmp_path):
    """Return a copy of the output of an export."""
    return lambda name: Path(shutil.copytree(exported(name), tmp_path / "out" / name))


# A library's default


def test_processor_stays_at_the_commit_although_its_class_names_the_main_branch(zoo_export, moved, hub):
    from optimum_htp.caching import forget

    output = zoo_export("trocr").output
    moved("zoo/trocr")
    forget()
    with hub.recorded() as requests:
        for source in (output, sorted(output.glob("*.onnx"))[0]):
            processor = transformers.TrOCRProcessor.from_pretrained(source)
            assert list(processor.image_processor.image_mean) == [0.48145466, 0.4578275, 0.40821073]
            assert processor.tokenizer.tokenize("cat") == ["cat"]
    assert requests == []


def test_only_another_revision_than_the_default_one_overrides_the_commit(exported, published, moved, hub, tmp_path):
    published("bert")
    folder = exported("bert")
    moved("tiny/bert")
    for source in (folder, folder / "model.onnx"):
        with hub.recorded() as requests:
            assert AutoTokenizer.from_pretrained(source, revision="main").tokenize("cat") == ["cat"]
            assert AutoConfig.from_pretrained(source, revision="main").hidden_size == 32
            ORTModelForSequenceClassification.from_pretrained(source, revision="main")
        assert requests == []
        for revision in ("refs/heads/main", hub.repos["tiny/bert"].refs["main"]):
            other = AutoTokenizer.from_pretrained(source, revision=revision, cache_dir=tmp_path)
            assert other.tokenize("cow") == ["cow"]


# Pipelines that name no task


def test_pipelines_without_a_task_accept_folders_with_a_config(out, model_folder, tmp_path, hub):
    folder = out("bert")
    expected = transformers.pipeline("text-classification", model=str(model_folder("bert")))("the cat")[0]["label"]
    small = quantized(folder, tmp_path / "q")
    ORTModelForSequenceClassification.from_pretrained(folder).save_pretrained(tmp_path / "saved")
    shutil.copy(model_folder("bert") / "config.json", folder)
    for source in (folder, small, tmp_path / "saved"):
        for make in (transformers.pipeline, pipeline):
            assert make(model=str(source))("the cat")[0]["label"] == expected


def test_pipelines_without_a_task_accept_a_saved_repo(exported, model_folder, hub, tmp_path):
    ORTModelForSequenceClassification.from_pretrained(exported("bert")).save_pretrained(tmp_path / "saved")
    hub.add("shipped/saved", tmp_path / "saved")
    assert "LABEL" in pipeline(model="shipped/saved")("the cat")[0]["label"]


# A missing name


def test_error_for_a_missing_file_name_lists_existing_files(exported, out, model_folder, hub, tmp_path):
    with_config = out("bert")
    shutil.copy(model_folder("bert") / "config.json", with_config)
    hub.add("shipped/bert", exported("bert"))
    name = "model_fp16.onnx"
    for source in (exported("bert"), with_config, "shipped/bert"):
        with pytest.raises(OnnxFileNotFoundError, match=r"model_fp16\.onnx.* model\.onnx"):
            ORTModelForSequenceClassification.from_pretrained(source, file_name=name, cache_dir=tmp_path / "cache")
    for part in ("encoder_file_name", "decoder_file_name"):
        with pytest.raises(OnnxFileNotFoundError, match=r"no fp16\.onnx.* decoder_model_merged\.onnx"):
            ORTModelForSeq2SeqLM.from_pretrained(exported("t5"), **{part: "fp16.onnx"})
    with pytest.raises(OnnxFileNotFoundError, match=r"model_fp16\.onnx.* model\.onnx"):
        pipeline("text-classification", model=str(exported("bert")), model_kwargs={"file_name": name})


# The same files for all loaders


def test_config_loader_and_auto_classes_agree(out, model_folder):
    from optimum_htp import HFHubConfigLoader

    folder = out("bert")
    config = json.loads((model_folder("bert") / "config.json").read_text())
    config["id2label"] = {"0": "good", "1": "bad", "2": "ugly"}
    (folder / "config.json").write_text(json.dumps(config))
    for loaded in (
        AutoConfig.from_pretrained(folder),
        AutoConfig.from_pretrained(folder / "model.onnx"),
        HFHubConfigLoader().load_from_onnx(folder / "model.onnx")[0],
        ORTModelForSequenceClassification.from_pretrained(folder).config,
        transformers.BertConfig.from_pretrained(folder / "model.onnx"),
    ):
        assert loaded.id2label[0] == "good"


def test_adjacent_files_are_used_only_if_complete(out, model_folder):
    """A settings file without a vocabulary is not a tokenizer, and a config contains no generation config."""
    folder = out("bert")
    for name in ("config.json", "tokenizer_config.json"):
        shutil.copy(model_folder("bert") / name, folder)
    assert AutoTokenizer.from_pretrained(folder).tokenize("the cat") == ["the", "cat"]
    assert AutoTokenizer.from_pretrained(folder / "model.onnx").tokenize("the cat") == ["the", "cat"]
    folder = out("gpt2")
    shutil.copy(model_folder("gpt2") / "config.json", folder)
    own = json.loads((model_folder("gpt2") / "generation_config.json").read_text())
    assert transformers.GenerationConfig.from_pretrained(folder).eos_token_id == own["eos_token_id"]


def test_error_for_missing_configs_without_connection_has_remedies(published, tmp_path, monkeypatch):
    from optimum_htp import HTPExporter

    HTPExporter().export(published("bert").repo_id, tmp_path / "out", embed="none")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for load in (ORTModelForSequenceClassification.from_pretrained, AutoConfig.from_pretrained):
        with pytest.raises(OfflineError, match=r"are not embedded in .* htp embed .* htp mirror .*/model\.onnx -o"):
            load(tmp_path / "out", cache_dir=tmp_path / "empty")


def test_errors_have_specific_types(tmp_path):
    with pytest.raises(OptimumHTPError):
        AutoTokenizer.from_pretrained(tmp_path / "none.onnx")
    with pytest.raises(OptimumHTPError):
        transformers.BertConfig.from_pretrained(tmp_path / "none.onnx")


# Names of files as registries, caches and other programs have them


def test_file_loads_under_any_name(exported, out, model_folder, tmp_path, hub):
    file = exported("bert") / "model.onnx"
    blob = tmp_path / "blobs" / "3b1f"
    blob.parent.mkdir()
    shutil.copy(file, blob)
    (tmp_path / "shouted").mkdir()
    shouted = Path(shutil.copy(file, tmp_path / "shouted" / "MODEL.ONNX"))
    version = Path(shutil.copy(file, tmp_path / "blobs" / "v1.2"))
    folder = tmp_path / "named.onnx"
    folder.mkdir()
    shutil.copy(file, folder)
    hub.status = 503
    with_config = out("bert")
    shutil.copy(model_folder("bert") / "config.json", with_config)
    sources = (blob, shouted, shouted.parent, version, folder, f"file://{file}", f"file://{file.parent}")
    sources += (blob.as_uri(), with_config.as_uri())
    for source in sources:
        model = ORTModelForSequenceClassification.from_pretrained(source)
        assert model.config.id2label[0] == "LABEL 0"
        assert AutoTokenizer.from_pretrained(source).tokenize("the cat") == ["the", "cat"]
        assert transformers.BertConfig.from_pretrained(source).hidden_size == 32
        assert "LABEL" in pipeline(model=str(source))("the cat")[0]["label"]


@pytest.mark.parametrize("load", [ORTModelForSequenceClassification.from_pretrained, AutoTokenizer.from_pretrained])
def test_url_of_a_missing_file_is_not_reported_as_a_repo(load, tmp_path):
    for place in (tmp_path / "none", tmp_path, tmp_path / "none.onnx"):
        with pytest.raises(OnnxFileNotFoundError, match=f"at {place}"):
            load(place.as_uri())


@pytest.mark.skipif(int(transformers.__version__.split(".")[0]) > 4, reason="transformers 5 has one kind")
def test_slow_tokenizer_without_connection_reports_why_the_hub_is_needed(exported, tmp_path, hub, monkeypatch):
    file = exported("bert") / "model.onnx"
    hub.status = 503
    with pytest.raises(OptimumHTPError, match=r"use_fast=False.*are not embedded in.*Use the fast tokenizer"):
        AutoTokenizer.from_pretrained(file, use_fast=False, cache_dir=tmp_path)


def test_config_in_a_subfolder_needs_no_additional_request(hub, published, model_folder, tmp_path):
    hub.add("shipped/parts", {"text/config.json": (model_folder("bert") / "config.json").read_bytes()})

    def asked(cache):
        with pytest.raises((OSError, ValueError), match="shipped/parts"):
            AutoConfig.from_pretrained(
                "shipped/parts", cache_dir=cache
            )  # now the cache records that the root has none
        with hub.recorded() as requests:
            assert AutoConfig.from_pretrained("shipped/parts", subfolder="text", cache_dir=cache).hidden_size == 32
        # A download of another repo from an earlier test can still run.
        return [(request.method, request.path) for request in requests if "/shipped/parts/" in request.path]

    hooked = asked(tmp_path / "with")
    optimum_htp.deactivate()
    try:
        assert asked(tmp_path / "without") == hooked
    finally:
        optimum_htp.activate()
