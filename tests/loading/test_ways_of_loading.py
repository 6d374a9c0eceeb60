"""The same answer for every way of loading: files with configs beside them, classes named directly, parts alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import transformers
from optimum.onnxruntime import (
    ORTModelForFeatureExtraction,
    ORTModelForSeq2SeqLM,
    ORTModelForSequenceClassification,
    ORTQuantizer,
    pipeline,
)
from optimum.onnxruntime.configuration import AutoQuantizationConfig
from transformers import AutoConfig, AutoTokenizer

import optimum_htp
from optimum_htp.errors import (
    ConfigLoadError,
    MissingSiblingError,
    OfflineError,
    OnnxFileNotFoundError,
    OptimumHTPError,
    PreprocessorLoadError,
)

TEXTS = ["a cat sat on the mat", "the dog ran"]


@pytest.fixture
def moved(hub):
    """Let the main branch of a repo move on to other words and another config."""

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
    """Return a copy of what an export of a model wrote."""
    return lambda name: Path(shutil.copytree(exported(name), tmp_path / "out" / name))


def quantized(folder, target):
    """What Optimum's quantizer makes of a folder: with a config beside it."""
    quantizer = ORTQuantizer.from_pretrained(folder, file_name="model.onnx")
    quantizer.quantize(AutoQuantizationConfig.avx2(is_static=False), save_dir=target)
    assert (target / "config.json").is_file()
    return target


# Of sentence_transformers


@pytest.fixture
def cls_pooled(hub, model_folder, tmp_path):
    """Export a model that takes the first token's vector and normalizes it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer

    from optimum_htp import HTPExporter

    transformer = Transformer(str(model_folder("bert")))
    pooling = Pooling(transformer.get_word_embedding_dimension(), pooling_mode="cls")
    model = SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu")
    model.save_pretrained(str(tmp_path / "saved"))
    hub.add("tiny/cls", tmp_path / "saved", pipeline_tag="sentence-similarity", library_name="sentence-transformers")
    HTPExporter().export("tiny/cls", tmp_path / "out", task="feature-extraction")
    return tmp_path / "out", model.encode(TEXTS)


def encoded(source, **options):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(source), backend="onnx", **options)
    return [type(module).__name__ for module in model], model.encode(TEXTS)


def cosine(one, other):
    return min((one * other).sum(1) / ((one**2).sum(1) ** 0.5 * (other**2).sum(1) ** 0.5))


MODULES = ["Transformer", "Pooling", "Normalize"]


def test_vectors_are_the_models_wherever_a_config_lies_beside_the_file(cls_pooled, tmp_path, hub):
    folder, expected = cls_pooled
    saved = tmp_path / "saved-model"
    ORTModelForFeatureExtraction.from_pretrained(folder / "model.onnx").save_pretrained(saved)
    small = quantized(folder, tmp_path / "q")
    hub.status = 503
    for source, options in (
        (folder, {}),
        (folder / "model.onnx", {}),
        (saved, {}),
        (saved / "model.onnx", {}),
        (small, {"model_kwargs": {"file_name": "model_quantized.onnx"}}),
        (small / "model_quantized.onnx", {}),
    ):
        modules, vectors = encoded(source, **options)
        assert modules == MODULES, source
        assert cosine(vectors, expected) > (0.97 if "quantized" in str((source, options)) else 0.99999), source


@pytest.mark.parametrize("place", ["model.onnx", "onnx/model.onnx"])
@pytest.mark.parametrize("with_config", [False, True])
def test_vectors_of_a_repo_of_onnx_files_are_the_models(place, with_config, cls_pooled, hub, tmp_path):
    folder, expected = cls_pooled
    files = {place: (folder / "model.onnx").read_bytes()}
    if with_config:
        commit = hub.repos["tiny/cls"].commits[hub.repos["tiny/cls"].refs["main"]]
        files["config.json"] = commit["config.json"]
    hub.add("shipped/cls", files)
    modules, vectors = encoded("shipped/cls", cache_folder=str(tmp_path / "cache"))
    assert modules == MODULES
    assert cosine(vectors, expected) > 0.99999


def test_sentence_transformer_takes_a_subfolder_and_a_url_of_a_folder(cls_pooled, hub, tmp_path):
    folder, expected = cls_pooled
    (tmp_path / "made" / "some" / "where").mkdir(parents=True)
    shutil.copy(folder / "model.onnx", tmp_path / "made" / "some" / "where" / "my.onnx")
    hub.add("shipped/below", {"some/where/my.onnx": (folder / "model.onnx").read_bytes()})
    below = {"subfolder": "some/where", "file_name": "my.onnx"}
    cache = {"cache_folder": str(tmp_path / "cache")}
    for source, options in (
        (tmp_path / "made", {"model_kwargs": below}),
        ("shipped/below", {"model_kwargs": below, **cache}),
        ("shipped/below", {"model_kwargs": {"subfolder": "some/where"}, **cache}),
        (folder.as_uri(), {}),
    ):
        modules, vectors = encoded(source, **options)
        assert modules == MODULES, source
        assert cosine(vectors, expected) > 0.99999, source


def test_cross_encoder_takes_a_file(exported, model_folder):
    from sentence_transformers import CrossEncoder

    pairs = [("the cat", "the dog"), ("a mat", "a house")]
    expected = CrossEncoder(str(model_folder("bert")), device="cpu").predict(pairs)
    for source in (exported("bert") / "model.onnx", exported("bert")):
        assert CrossEncoder(str(source), backend="onnx").predict(pairs) == pytest.approx(expected, abs=1e-4)


def test_model_in_pytorch_is_pooled_as_ever(model_folder, exported, tmp_path):
    """A folder with weights of PyTorch and a stamped file: only backend="onnx" asks the file."""
    from sentence_transformers import SentenceTransformer

    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model_folder("minilm") / name, tmp_path)
    shutil.copy(exported("minilm") / "model.onnx", tmp_path)
    model = SentenceTransformer(str(tmp_path), device="cpu")
    assert [type(module).__name__ for module in model] == ["Transformer", "Pooling"]


# A default of a library's


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


# Classes that are named directly

DIRECT = {
    "bert": ["BertConfig", "BertTokenizerFast", "BertTokenizer"],
    "gpt2": ["GPT2Config", "PreTrainedTokenizerFast", "GenerationConfig"],
    "vit": ["ViTConfig", "ViTImageProcessor"],
    "wav2vec2": ["Wav2Vec2Config", "Wav2Vec2Processor", "Wav2Vec2FeatureExtractor"],
}
FROM_THE_ZOO = {
    "whisper": ["WhisperConfig", "WhisperProcessor", "WhisperFeatureExtractor", "WhisperTokenizerFast"],
    "clip": ["CLIPConfig", "CLIPVisionConfig", "CLIPImageProcessor"],
    "trocr": ["VisionEncoderDecoderConfig", "TrOCRProcessor"],
}


def described(loaded):
    """What a loader returned, in a form that can be compared: without where it came from."""
    if isinstance(loaded, transformers.PreTrainedTokenizerBase):
        return loaded("the cat sat").input_ids, loaded.all_special_tokens
    if isinstance(loaded, transformers.ProcessorMixin):
        parts = [getattr(loaded, name, None) for name in ("tokenizer", "image_processor", "feature_extractor")]
        return [described(part) for part in parts if part is not None]
    content = json.loads(loaded.to_json_string())
    for name in ("_name_or_path", "processor_class", "transformers_version"):
        content.pop(name, None)
    return content


@pytest.mark.parametrize(("name", "cls"), [(name, cls) for name, classes in DIRECT.items() for cls in classes])
def test_direct_classes_take_a_file_or_its_folder(name, cls, exported, model_folder):
    loader = getattr(transformers, cls)
    expected = described(loader.from_pretrained(model_folder(name)))
    for source in (exported(name), sorted(exported(name).glob("*.onnx"))[0]):
        assert described(loader.from_pretrained(source)) == expected


@pytest.mark.parametrize(("name", "cls"), [(name, cls) for name, some in FROM_THE_ZOO.items() for cls in some])
def test_direct_classes_of_larger_models_take_them_too(name, cls, zoo_export):
    made = zoo_export(name)
    loader = getattr(transformers, cls)
    expected = described(loader.from_pretrained(made.model))
    for source in (made.output, sorted(made.output.glob("*.onnx"))[0]):
        assert described(loader.from_pretrained(source)) == expected


def test_class_that_does_not_fit_says_so(exported):
    for source in (exported("bert"), exported("bert") / "model.onnx"):
        with pytest.raises(ConfigLoadError, match=r"T5Config does not fit .*of type bert\. AutoConfig"):
            transformers.T5Config.from_pretrained(source)
        with pytest.raises(PreprocessorLoadError, match=r"ViTImageProcessor(Pil)? does not fit .* AutoTokenizer"):
            transformers.ViTImageProcessor.from_pretrained(source)
        with pytest.raises(PreprocessorLoadError, match=r"WhisperProcessor does not fit .* AutoTokenizer"):
            transformers.WhisperProcessor.from_pretrained(source)
    with pytest.raises(PreprocessorLoadError, match=r"BertTokenizer(Fast)? does not fit"):
        transformers.BertTokenizerFast.from_pretrained(exported("vit"))
    with pytest.raises(PreprocessorLoadError, match=r"CLIPImageProcessor(Pil)? does not fit .* AutoImageProcessor"):
        transformers.CLIPImageProcessor.from_pretrained(exported("vit"))
    with pytest.raises(
        PreprocessorLoadError, match=r"WhisperFeatureExtractor does not fit .* has Wav2Vec2FeatureExtractor\. Auto"
    ):
        transformers.WhisperFeatureExtractor.from_pretrained(exported("wav2vec2"))
    with pytest.raises(PreprocessorLoadError, match=r"WhisperProcessor does not fit .* has Wav2Vec2Processor\. Auto"):
        transformers.WhisperProcessor.from_pretrained(exported("wav2vec2"))


# An encoder and a merged decoder, alone


@pytest.fixture
def two_parts(exported, tmp_path):
    folder = tmp_path / "two"
    folder.mkdir()
    for name in ("encoder_model.onnx", "decoder_model_merged.onnx"):
        shutil.copy(exported("t5") / name, folder)
    return folder


def test_encoder_and_merged_decoder_are_enough(two_parts, exported, hub, tmp_path):
    inputs = AutoTokenizer.from_pretrained(exported("t5"))("the cat", return_tensors="pt")
    whole = ORTModelForSeq2SeqLM.from_pretrained(exported("t5"))
    expected = whole.generate(**inputs, max_new_tokens=6).tolist()
    whole.save_pretrained(tmp_path / "saved")
    hub.status = 503
    for source in (
        two_parts,
        two_parts / "encoder_model.onnx",
        two_parts / "decoder_model_merged.onnx",
        tmp_path / "saved" / "encoder_model.onnx",
        tmp_path / "saved",
    ):
        model = ORTModelForSeq2SeqLM.from_pretrained(source)
        assert model.generate(**inputs, max_new_tokens=6).tolist() == expected
        assert AutoTokenizer.from_pretrained(source)("the cat").input_ids == inputs.input_ids[0].tolist()
        assert model.preprocessors[0]("the cat").input_ids == inputs.input_ids[0].tolist()


def test_part_that_a_class_opens_has_to_be_there(two_parts):
    with pytest.raises(MissingSiblingError, match=r"decoder_model\.onnx, .*decoder_with_past_model\.onnx are missing"):
        ORTModelForSeq2SeqLM.from_pretrained(two_parts, use_merged=False)
    (two_parts / "decoder_model_merged.onnx").unlink()
    with pytest.raises(MissingSiblingError, match=r"decoder_model_merged\.onnx"):
        ORTModelForSeq2SeqLM.from_pretrained(two_parts)


def test_absent_parts_are_information(two_parts):
    from optimum_htp.stamping.verify import Status, verify_metadata

    verdict = verify_metadata(two_parts / "encoder_model.onnx")
    assert verdict.status is Status.OK
    assert "decoder_model.onnx, decoder_with_past_model.onnx of the same model" in verdict.unchecked["parts"]
    assert "embedded files" in verdict.checked
    (two_parts / "encoder_model.onnx").unlink()
    verdict = verify_metadata(two_parts / "decoder_model_merged.onnx")
    assert verdict.status is Status.OK
    assert "encoder_model.onnx, which is not here" in verdict.unchecked["embedded files"]


def test_two_parts_are_pushed_and_load_from_the_repo(two_parts, hub, tmp_path, monkeypatch):
    from optimum_htp.extras.push.pushing import push
    from optimum_htp.hubs import HubAccess

    hub.writers["hf_writer"] = {"me"}
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    push([two_parts], "me/two", access=HubAccess(token="hf_writer"))
    model = ORTModelForSeq2SeqLM.from_pretrained("me/two", cache_dir=tmp_path / "cache")
    assert model.decoder.is_merged


# Pipelines that name no task


def test_pipelines_without_a_task_take_folders_with_a_config(out, model_folder, tmp_path, hub):
    folder = out("bert")
    expected = transformers.pipeline("text-classification", model=str(model_folder("bert")))("the cat")[0]["label"]
    small = quantized(folder, tmp_path / "q")
    ORTModelForSequenceClassification.from_pretrained(folder).save_pretrained(tmp_path / "saved")
    shutil.copy(model_folder("bert") / "config.json", folder)
    for source in (folder, small, tmp_path / "saved"):
        for make in (transformers.pipeline, pipeline):
            assert make(model=str(source))("the cat")[0]["label"] == expected


def test_pipelines_without_a_task_take_a_saved_repo(exported, model_folder, hub, tmp_path):
    ORTModelForSequenceClassification.from_pretrained(exported("bert")).save_pretrained(tmp_path / "saved")
    hub.add("shipped/saved", tmp_path / "saved")
    assert "LABEL" in pipeline(model="shipped/saved")("the cat")[0]["label"]


# A name that is not there


def test_file_name_that_is_not_there_is_answered_with_those_that_are(exported, out, model_folder, hub, tmp_path):
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


# One walker


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


def test_what_lies_beside_is_used_for_what_it_really_has(out, model_folder):
    """A settings file without a vocabulary is no tokenizer, and a config alone has no generation config."""
    folder = out("bert")
    for name in ("config.json", "tokenizer_config.json"):
        shutil.copy(model_folder("bert") / name, folder)
    assert AutoTokenizer.from_pretrained(folder).tokenize("the cat") == ["the", "cat"]
    assert AutoTokenizer.from_pretrained(folder / "model.onnx").tokenize("the cat") == ["the", "cat"]
    folder = out("gpt2")
    shutil.copy(model_folder("gpt2") / "config.json", folder)
    own = json.loads((model_folder("gpt2") / "generation_config.json").read_text())
    assert transformers.GenerationConfig.from_pretrained(folder).eos_token_id == own["eos_token_id"]


def test_file_without_configs_names_what_helps_where_no_hub_is_reached(published, tmp_path, monkeypatch):
    from optimum_htp import HTPExporter

    HTPExporter().export(published("bert").repo_id, tmp_path / "out", embed="none")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for load in (ORTModelForSequenceClassification.from_pretrained, AutoConfig.from_pretrained):
        with pytest.raises(OfflineError, match=r"does not carry .* htp embed .* htp mirror .*/model\.onnx --to"):
            load(tmp_path / "out", cache_dir=tmp_path / "empty")


def test_errors_of_the_kind_are_typed(tmp_path):
    with pytest.raises(OptimumHTPError):
        AutoTokenizer.from_pretrained(tmp_path / "none.onnx")
    with pytest.raises(OptimumHTPError):
        transformers.BertConfig.from_pretrained(tmp_path / "none.onnx")


# Names of files as registries, caches and other programs have them


def test_file_is_taken_by_whatever_name_it_has(exported, out, model_folder, tmp_path, hub):
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
def test_url_of_no_file_is_not_called_a_repo(load, tmp_path):
    for place in (tmp_path / "none", tmp_path, tmp_path / "none.onnx"):
        with pytest.raises(OnnxFileNotFoundError, match=f"at {place}"):
            load(place.as_uri())


@pytest.mark.skipif(int(transformers.__version__.split(".")[0]) > 4, reason="transformers 5 has one kind")
def test_slow_tokenizer_without_a_network_says_why_a_hub_is_asked(exported, tmp_path, hub, monkeypatch):
    hub.status = 503
    with pytest.raises(OptimumHTPError, match=r"use_fast=False.*does not carry.*Take the fast one"):
        AutoTokenizer.from_pretrained(exported("bert") / "model.onnx", use_fast=False, cache_dir=tmp_path)


def test_config_in_a_subfolder_costs_no_request_more(hub, published, model_folder, tmp_path):
    hub.add("shipped/parts", {"text/config.json": (model_folder("bert") / "config.json").read_bytes()})

    def asked(cache):
        with pytest.raises((OSError, ValueError), match="shipped/parts"):
            AutoConfig.from_pretrained("shipped/parts", cache_dir=cache)  # now it is known that the root has none
        with hub.recorded() as requests:
            assert AutoConfig.from_pretrained("shipped/parts", subfolder="text", cache_dir=cache).hidden_size == 32
        # A download that an earlier test gave up may still go on, of another repo.
        return [(request.method, request.path) for request in requests if "/shipped/parts/" in request.path]

    hooked = asked(tmp_path / "with")
    optimum_htp.deactivate()
    try:
        assert asked(tmp_path / "without") == hooked
    finally:
        optimum_htp.activate()
