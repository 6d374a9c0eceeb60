"""Directly named classes accept a file, its folder, or a sufficient set of parts."""

from __future__ import annotations

import json
import shutil

import pytest
import transformers
from optimum.onnxruntime import (
    ORTModelForSeq2SeqLM,
)
from transformers import AutoTokenizer

from optimum_htp.errors import (
    ConfigLoadError,
    MissingSiblingError,
    PreprocessorLoadError,
)

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
    """A loader's result in a comparable form, without its path."""
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
def test_direct_classes_accept_a_file_or_its_folder(name, cls, exported, model_folder):
    loader = getattr(transformers, cls)
    expected = described(loader.from_pretrained(model_folder(name)))
    for source in (exported(name), sorted(exported(name).glob("*.onnx"))[0]):
        assert described(loader.from_pretrained(source)) == expected


@pytest.mark.parametrize(("name", "cls"), [(name, cls) for name, some in FROM_THE_ZOO.items() for cls in some])
def test_direct_classes_of_larger_models_accept_them_too(name, cls, zoo_export):
    made = zoo_export(name)
    loader = getattr(transformers, cls)
    expected = described(loader.from_pretrained(made.model))
    for source in (made.output, sorted(made.output.glob("*.onnx"))[0]):
        assert described(loader.from_pretrained(source)) == expected


def test_wrong_class_is_rejected(exported):
    for source in (exported("bert"), exported("bert") / "model.onnx"):
        with pytest.raises(ConfigLoadError, match=r"T5Config does not fit .*of type bert\. Use AutoConfig"):
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
        PreprocessorLoadError, match=r"WhisperFeatureExtractor does not fit .* has Wav2Vec2FeatureExtractor\. Use Auto"
    ):
        transformers.WhisperFeatureExtractor.from_pretrained(exported("wav2vec2"))
    with pytest.raises(
        PreprocessorLoadError, match=r"WhisperProcessor does not fit .* has Wav2Vec2Processor\. Use Auto"
    ):
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


def test_missing_required_part_is_reported(two_parts):
    with pytest.raises(MissingSiblingError, match=r"decoder_model\.onnx, .*decoder_with_past_model\.onnx are missing"):
        ORTModelForSeq2SeqLM.from_pretrained(two_parts, use_merged=False)
    (two_parts / "decoder_model_merged.onnx").unlink()
    with pytest.raises(MissingSiblingError, match=r"decoder_model_merged\.onnx"):
        ORTModelForSeq2SeqLM.from_pretrained(two_parts)


def test_absent_parts_are_not_failures(two_parts):
    from optimum_htp.stamping.verify import Status, verify_metadata

    verdict = verify_metadata(two_parts / "encoder_model.onnx")
    assert verdict.status is Status.OK
    assert "decoder_model.onnx, decoder_with_past_model.onnx of the same model" in verdict.unchecked["parts"]
    assert "embedded files" in verdict.checked
    (two_parts / "encoder_model.onnx").unlink()
    verdict = verify_metadata(two_parts / "decoder_model_merged.onnx")
    assert verdict.status is Status.OK
    assert "encoder_model.onnx, which is missing" in verdict.unchecked["embedded files"]


def test_two_parts_are_pushed_and_load_from_the_repo(two_parts, hub, tmp_path, monkeypatch):
    from optimum_htp.extras.push.pushing import push
    from optimum_htp.hubs import HubAccess

    hub.writers["hf_writer"] = {"me"}
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    push([two_parts], "me/two", access=HubAccess(token="hf_writer"))
    model = ORTModelForSeq2SeqLM.from_pretrained("me/two", cache_dir=tmp_path / "cache")
    assert model.decoder.is_merged
