"""The class and the preprocessors of a file or folder are selected automatically."""

from __future__ import annotations

import inspect
import json
import shutil
import threading
from pathlib import Path

import onnx
import optimum.onnxruntime
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    GenerationConfig,
)

from optimum_htp import OptimumONNXModel
from optimum_htp.errors import (
    ConfigLoadError,
    DeviceError,
    OnnxFileNotFoundError,
    OptimumHTPError,
    PreprocessorLoadError,
)
from optimum_htp.onnxfile import read_metadata, rewrite_model
from tests.conftest import ARCHITECTURES, run_python

PREPROCESSORS = {
    "bert": "BertTokenizerFast",
    "gpt2": "PreTrainedTokenizerFast",
    "t5": "PreTrainedTokenizerFast",
    "vit": "ViTImageProcessor",
    "wav2vec2": "Wav2Vec2Processor",
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_class_is_the_one_for_the_task(name, exported, cache):
    file = sorted(exported(name).glob("*.onnx"))[0]
    model = OptimumONNXModel.from_pretrained(file, cache_dir=cache)
    assert type(model).__name__ == ARCHITECTURES[name].ort_class


@pytest.mark.parametrize("name", PREPROCESSORS)
def test_model_comes_with_its_preprocessor(name, exported, cache):
    model, preprocessor = OptimumONNXModel.from_onnx(exported(name), cache_dir=cache)
    assert type(model).__name__ == ARCHITECTURES[name].ort_class
    made = type(preprocessor).__name__.removesuffix("Fast").removesuffix("Pil")
    expected = PREPROCESSORS[name].removesuffix("Fast")
    assert made in (expected, {"PreTrainedTokenizer": "TokenizersBackend"}.get(expected))  # the name in transformers 5


def test_given_task_and_device_count(exported, cache):
    model, _ = OptimumONNXModel.from_onnx(exported("bert"), task="masked-lm", device="cpu", cache_dir=cache)
    assert type(model).__name__ == "ORTModelForMaskedLM"
    with pytest.raises(OptimumHTPError, match="is unknown"):
        OptimumONNXModel.from_onnx(exported("bert"), device="tpu", cache_dir=cache)


@pytest.mark.skipif(
    "CUDAExecutionProvider" in __import__("onnxruntime").get_available_providers(), reason="it is here"
)
def test_unavailable_device_is_reported(exported, cache):
    with pytest.raises(OptimumHTPError, match="CUDAExecutionProvider, which is not available"):
        OptimumONNXModel.from_onnx(exported("bert"), device="cuda", cache_dir=cache)


def test_every_task_of_optimum_has_a_class(tmp_path):
    """Each ORTModel class is found for a file with its task, so new classes are found too."""
    from optimum.exporters.tasks import TasksManager
    from optimum.onnxruntime.modeling_seq2seq import ORTModelForConditionalGeneration

    from optimum_htp.libraries.ort_classes import class_for
    from optimum_htp.metadata import ExportMetadata

    tasks = {}
    for name, cls in inspect.getmembers(optimum.onnxruntime, inspect.isclass):
        if name.startswith("ORTModelFor") and not issubclass(cls, ORTModelForConditionalGeneration):
            try:
                task = TasksManager._infer_task_from_model_or_model_class(model_class=cls.auto_model_class)
            except ValueError:
                continue
            tasks.setdefault(task, {})[name] = cls
    assert len(tasks) > 12
    for task, classes in tasks.items():
        record = ExportMetadata(model_type="local", task=task)
        found = class_for(_file_for(next(iter(classes.values())), tmp_path), record, "auto").__name__
        assert found in classes, (task, found)


def _file_for(cls, folder):
    """Write a file with the inputs of an Optimum class."""
    taken = inspect.signature(cls.forward).parameters
    names = ("input_ids", "pixel_values", "input_values", "input_features")
    given = next((name for name in names if name in taken), "x")
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Identity", [given], ["last_hidden_state"])
    ends = [value(given, 1, [1])], [value("last_hidden_state", 1, [1])]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", *ends)), folder / "model.onnx")
    return folder / "model.onnx"


def test_file_without_task_requires_a_task(exported, model_folder, tmp_path):
    path = Path(shutil.copy(exported("bert") / "model.onnx", tmp_path / "m.onnx"))
    rewrite_model(path, metadata={}, drop=lambda key: key.startswith("hf_"))
    shutil.copy(model_folder("bert") / "config.json", tmp_path)
    with pytest.raises(ConfigLoadError, match="task="):
        OptimumONNXModel.from_pretrained(path)
    model, preprocessor = OptimumONNXModel.from_onnx(path, task="text-classification")
    assert type(model).__name__ == "ORTModelForSequenceClassification"
    assert preprocessor is None


def test_missing_file_is_reported(tmp_path):
    with pytest.raises(OnnxFileNotFoundError):
        OptimumONNXModel.from_pretrained(tmp_path / "none.onnx")
    with pytest.raises(OnnxFileNotFoundError):
        OptimumONNXModel.from_pretrained(tmp_path)


def test_folder_of_a_hub_export_loads_without_a_config(exported, cache, tmp_path):
    cls = optimum.onnxruntime.ORTModelForSequenceClassification
    assert cls.from_pretrained(exported("bert"), cache_dir=cache).config.id2label[0] == "LABEL 0"
    nested = tmp_path / "repo" / "onnx"
    shutil.copytree(exported("bert"), nested)
    assert cls.from_pretrained(tmp_path / "repo", subfolder="onnx", cache_dir=cache)
    assert cls.from_pretrained(str(nested), file_name="model.onnx", cache_dir=cache)
    seq2seq = optimum.onnxruntime.ORTModelForSeq2SeqLM
    assert seq2seq.from_pretrained(exported("t5"), cache_dir=cache).decoder_with_past is None
    unmerged = seq2seq.from_pretrained(exported("t5"), cache_dir=cache, use_merged=False)
    assert Path(unmerged.decoder_with_past.session._model_path).name == "decoder_with_past_model.onnx"


def test_parts_can_be_named_one_by_one(exported, cache, tmp_path):
    folder = Path(shutil.copytree(exported("t5"), tmp_path / "t5"))
    (folder / "encoder_model.onnx").rename(folder / "e.onnx")
    (folder / "decoder_model_merged.onnx").rename(folder / "my_decoder_merged.onnx")
    names = {"encoder_file_name": "e.onnx", "decoder_file_name": "my_decoder_merged.onnx", "use_cache": False}
    model = optimum.onnxruntime.ORTModelForSeq2SeqLM.from_pretrained(folder, cache_dir=cache, **names)
    assert Path(model.decoder.session._model_path).name == "my_decoder_merged.onnx"
    with pytest.raises(OnnxFileNotFoundError, match=r"none\.onnx"):
        optimum.onnxruntime.ORTModelForSeq2SeqLM.from_pretrained(
            folder, cache_dir=cache, encoder_file_name="e.onnx", decoder_file_name="none.onnx"
        )


def test_folder_of_several_models_is_rejected(exported, cache, tmp_path):
    for name in ("bert", "vit"):
        shutil.copy(exported(name) / "model.onnx", tmp_path / f"{name}.onnx")
    cls = optimum.onnxruntime.ORTModelForImageClassification
    with pytest.raises(ConfigLoadError, match=r"bert\.onnx, vit\.onnx"):
        cls.from_pretrained(tmp_path, cache_dir=cache)
    assert cls.from_pretrained(tmp_path, file_name="vit.onnx", cache_dir=cache)


def test_preprocessors_are_downloaded_at_first_use(exported, cache, hub):
    cls = optimum.onnxruntime.ORTModelForSequenceClassification
    model = cls.from_pretrained(exported("bert") / "model.onnx", cache_dir=cache)
    with hub.recorded() as requests:
        assert "AutoTokenizer" in repr(model.preprocessors)
    assert requests == []
    (tokenizer,) = model.preprocessors
    assert type(tokenizer).__name__.removesuffix("Fast") == "BertTokenizer"
    with hub.recorded() as requests:
        assert model.preprocessors[0] is tokenizer
    assert requests == []


@pytest.mark.slow
def test_saved_model_loads_without_hooks(exported, cache, tmp_path):
    cls = optimum.onnxruntime.ORTModelForSequenceClassification
    cls.from_pretrained(exported("bert") / "model.onnx", cache_dir=cache).save_pretrained(tmp_path / "saved")
    code = f"""
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer
model = ORTModelForSequenceClassification.from_pretrained({str(tmp_path / "saved")!r})
print(model.config.id2label[0], AutoTokenizer.from_pretrained({str(tmp_path / "saved")!r}).tokenize("the cat"))
"""
    done = run_python(code, OPTIMUM_HTP_DISABLE="1", HF_HUB_OFFLINE="1")
    assert "LABEL 0 ['the', 'cat']" in done.stdout


@pytest.mark.parametrize("as_folder", [False, True])
def test_auto_classes_accept_a_file_or_its_folder(exported, cache, as_folder):
    def place(name):
        return exported(name) if as_folder else sorted(exported(name).glob("*.onnx"))[0]

    assert AutoTokenizer.from_pretrained(place("bert"), cache_dir=cache).tokenize("the cat") == ["the", "cat"]
    assert AutoConfig.from_pretrained(str(place("bert")), cache_dir=cache).id2label[2] == "LABEL 2"
    assert AutoImageProcessor.from_pretrained(place("vit"), cache_dir=cache).size == {"height": 32, "width": 32}
    assert AutoFeatureExtractor.from_pretrained(place("wav2vec2"), cache_dir=cache).sampling_rate == 16000
    assert type(AutoProcessor.from_pretrained(place("wav2vec2"), cache_dir=cache)).__name__ == "Wav2Vec2Processor"
    assert GenerationConfig.from_pretrained(place("gpt2"), cache_dir=cache).eos_token_id == 1


def test_tokenizer_is_that_of_the_commit_although_main_moved(exported, cache, hub):
    path = exported("bert") / "model.onnx"
    repo = hub.repos["tiny/bert"]
    before = repo.refs["main"]
    files = dict(repo.commits[before])
    files["tokenizer.json"] = files["tokenizer.json"].replace(b'"cat"', b'"cow"')
    repo.commit(files)
    try:
        assert AutoTokenizer.from_pretrained(path, cache_dir=cache).tokenize("cat") == ["cat"]
    finally:
        repo.refs["main"] = before


def test_missing_preprocessor_is_reported_with_its_cause(exported, cache, tmp_path):
    path = Path(shutil.copy(exported("bert") / "model.onnx", tmp_path / "m.onnx"))
    rewrite_model(path, metadata={"hf_preprocessors": "AutoImageProcessor"})
    with pytest.raises(PreprocessorLoadError, match=r"AutoImageProcessor of tiny/bert") as caught:
        OptimumONNXModel.from_onnx(path, cache_dir=cache)
    assert caught.value.__cause__ is not None


def test_file_without_preprocessor_names_gets_those_of_its_repo(exported, cache, tmp_path):
    path = Path(shutil.copy(exported("wav2vec2") / "model.onnx", tmp_path / "m.onnx"))
    rewrite_model(path, drop=lambda key: key == "hf_preprocessors")
    assert "hf_preprocessors" not in read_metadata(path)
    _, preprocessor = OptimumONNXModel.from_onnx(path, cache_dir=cache)
    assert type(preprocessor).__name__ == "Wav2Vec2Processor"


def test_threads_get_tokenizers_of_their_own(exported, cache):
    path, found, errors = exported("bert") / "model.onnx", [], []

    def work():
        try:
            tokenizer = AutoTokenizer.from_pretrained(path, cache_dir=cache)
            found.append(tokenizer(["the cat sat on the mat"] * 50, padding=True, truncation=True)["input_ids"][0])
        except Exception as error:  # noqa: BLE001 - shown by the assertion
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert found == [found[0]] * 8


def test_other_folders_and_repos_load_as_before(model_folder, published, hub, tmp_path):
    """Folders with a config and other files are passed on unchanged."""
    published("bert")
    with hub.recorded() as requests:
        assert AutoTokenizer.from_pretrained(model_folder("bert")).tokenize("cat") == ["cat"]
    assert requests == []
    tokenizer_only = tmp_path / "tokenizer"
    AutoTokenizer.from_pretrained(model_folder("bert")).save_pretrained(tokenizer_only)
    assert AutoTokenizer.from_pretrained(tokenizer_only).tokenize("cat") == ["cat"]
    assert AutoConfig.from_pretrained("tiny/bert").model_type == "bert"
    with pytest.raises(ValueError, match="Unrecognized model"):
        AutoConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("loader", [AutoConfig, AutoTokenizer])
@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"model_type": "no such"}'], ids=["empty", "cut", "list", "type"]
)
def test_damaged_cache_files_are_reported_with_their_model(loader, damage, exported, cache, monkeypatch):
    monkeypatch.setenv("OPTIMUM_HTP_RESOLVE", "cache,hub")
    file = exported("bert") / "model.onnx"
    loader.from_pretrained(file, cache_dir=cache)
    names = ["config.json"] if loader is AutoConfig else ["tokenizer.json", "tokenizer_config.json"]
    for name in names:
        (found,) = cache.rglob(name)
        found.resolve().write_bytes(damage)
    with pytest.raises((ConfigLoadError, PreprocessorLoadError), match=r"model\.onnx .*force_download=True") as caught:
        loader.from_pretrained(file, cache_dir=cache)
    assert isinstance(caught.value, (OSError, ValueError))  # as callers of transformers expect
    assert loader.from_pretrained(file, cache_dir=cache, force_download=True) is not None


def test_answers_are_right_through_model_and_tokenizer(exported, model_folder, cache):
    from transformers import AutoModelForSequenceClassification

    model, tokenizer = OptimumONNXModel.from_onnx(exported("bert"), cache_dir=cache)
    inputs = tokenizer("the big cat sat on the small mat", return_tensors="pt")
    reference = AutoModelForSequenceClassification.from_pretrained(model_folder("bert")).eval()
    with torch.no_grad():
        assert (model(**inputs).logits - reference(**inputs).logits).abs().max() < 1e-4
    assert json.loads(json.dumps(model.config.id2label))["0"] == "LABEL 0"


@pytest.fixture
def local_file(exported, tmp_path):
    """A file exported from a local model, alone in its folder."""
    folder = tmp_path / "local"
    folder.mkdir()
    file = Path(shutil.copy(exported("bert") / "model.onnx", folder))
    rewrite_model(
        file, metadata={"hf_model_type": "local"}, drop=lambda key: key.startswith(("hf_hub", "hf_embedded"))
    )
    return file


def test_local_file_needs_no_adjacent_config_if_one_is_given(local_file, model_folder, caplog):
    config = AutoConfig.from_pretrained(model_folder("bert"))
    model, preprocessor = OptimumONNXModel.from_onnx(local_file, config=config)
    assert model.config.id2label == config.id2label
    assert preprocessor is None
    assert "no preprocessors next to it" in caplog.text
    assert OptimumONNXModel.from_pretrained(local_file, config=config).config.id2label == config.id2label


def test_adjacent_preprocessors_of_a_local_file_need_no_config(local_file, model_folder):
    for path in model_folder("bert").iterdir():
        if "token" in path.name or path.name == "vocab.txt":
            shutil.copy(path, local_file.parent)
    config = AutoConfig.from_pretrained(model_folder("bert"))
    model, tokenizer = OptimumONNXModel.from_onnx(local_file, config=config)
    assert tokenizer("the cat").input_ids == AutoTokenizer.from_pretrained(local_file)("the cat").input_ids
    assert model.preprocessors[0]("the cat").input_ids == tokenizer("the cat").input_ids
    with pytest.raises(ConfigLoadError, match=r"config\.json is not next to it"):
        OptimumONNXModel.from_onnx(local_file)


@pytest.mark.parametrize("device", ["tpu", "cuda:x", "cuda"])
def test_unavailable_device_raises_device_error(device, exported):
    with pytest.raises(DeviceError, match=f"device='{device}'"):
        OptimumONNXModel.from_onnx(exported("bert") / "model.onnx", device=device)
