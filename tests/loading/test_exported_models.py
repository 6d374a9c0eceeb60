"""transformers' ExportedModel loads files of the transformers engine."""

import shutil
from pathlib import Path

import pytest

pytest.importorskip("transformers.exporters", reason="transformers' own exporters come with transformers 5.24")
pytest.importorskip("onnxscript", reason="transformers' own exporters need onnxscript")

import torch
import transformers
from transformers.exporters import ExportedModel

import optimum_htp
from optimum_htp import strip_metadata
from optimum_htp.errors import (
    ConfigLoadError,
    MissingSiblingError,
    OnnxFileNotFoundError,
    SeveralModelsError,
    WrongTaskError,
)
from optimum_htp.onnxfile import read_signature
from tests.support.marks import slowly
from tests.support.traced import MODELS, names_in

TOKENS = torch.tensor([[2, 6, 7, 8, 3], [2, 9, 10, 3, 0]])
INPUTS = {"input_ids": TOKENS, "attention_mask": (TOKENS != 0).long(), "token_type_ids": torch.zeros_like(TOKENS)}


def test_exported_model_loads_the_file_alone(traced_bert, traced, tmp_path, hub):
    file = Path(shutil.copy(traced_bert / "model.onnx", tmp_path / "renamed.onnx"))
    with hub.recorded() as requests:
        loaded = ExportedModel.from_pretrained(str(file))
    assert requests == []
    model = transformers.AutoModelForSequenceClassification.from_pretrained(traced("bert").model).eval()
    with torch.inference_mode():
        expected = model(**INPUTS).logits
    assert torch.allclose(loaded(**INPUTS).logits, expected, atol=1e-5)
    assert loaded.config.id2label[1] == "LABEL 1"
    assert names_in(tmp_path) == ["renamed.onnx"]


def test_exported_model_loads_a_folder_of_files(traced_gpt2, tmp_path):
    for file in traced_gpt2.iterdir():
        shutil.copy(file, tmp_path)
    loaded = ExportedModel.from_pretrained(tmp_path)
    assert {*loaded.components} == {"prefill", "decode"}
    assert loaded.config.model_type == "gpt2"
    by_file = ExportedModel.from_pretrained(tmp_path / "prefill.onnx")
    assert {*by_file.components} == {"prefill", "decode"}


def test_prefill_and_decode_make_the_tokens_that_the_model_makes(traced_gpt2, traced):
    model = transformers.AutoModelForCausalLM.from_pretrained(traced("gpt2").model).eval()
    tokens = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    model.generation_config.eos_token_id = None
    expected = model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=6, do_sample=False)
    runners = ExportedModel.from_pretrained(traced_gpt2).runners
    mask, places = torch.ones_like(tokens), torch.arange(tokens.shape[1]).expand(2, -1)
    result = runners["prefill"](input_ids=tokens, attention_mask=mask, position_ids=places)
    made = [tokens]
    for step in range(6):
        made.append(result.logits[:, -1].argmax(-1, keepdim=True))
        mask = torch.cat([mask, mask[:, :1]], 1)
        place = torch.full((2, 1), tokens.shape[1] + step)
        cache = getattr(result, "cache", None) or result.past_key_values
        result = runners["decode"](input_ids=made[-1], attention_mask=mask, position_ids=place, cache=cache)
    assert torch.equal(torch.cat(made, 1), expected)
    assert len({*torch.cat(made[1:], 1).flatten().tolist()}) >= 3


@pytest.mark.parametrize("name", [*slowly("t5"), "whisper"])
def test_encoder_prefill_and_decode_make_the_tokens_that_the_model_makes(name, traced):
    made = traced(name)
    folder = made.output
    assert {file.name for file in folder.iterdir()} >= {
        "decode.onnx",
        "encoder.onnx",
        "model.onnx.data",
        "prefill.onnx",
    }
    model = getattr(transformers, MODELS[name].model).from_pretrained(made.model).eval()
    if name == "t5":
        inputs = {"input_ids": TOKENS, "attention_mask": INPUTS["attention_mask"]}
    else:
        torch.manual_seed(2)
        inputs = {"input_features": torch.rand(3, 16, 3000)}
    start = torch.tensor([[model.config.decoder_start_token_id, 5]] * len(next(iter(inputs.values()))))
    begun = {**inputs, "decoder_input_ids": start}
    runners = ExportedModel.from_pretrained(folder).runners
    encoded = runners["encoder"](**inputs)
    result = runners["prefill"](encoder_outputs=encoded, **begun)
    tokens = start
    for _ in range(5):
        with torch.inference_mode():
            expected = model(**{**inputs, "decoder_input_ids": tokens}).logits[:, -1]
        assert torch.allclose(result.logits[:, -1], expected, atol=1e-4)
        step = {**inputs, "decoder_input_ids": expected.argmax(-1, keepdim=True)}
        cache = getattr(result, "cache", None) or result.past_key_values
        result = runners["decode"](encoder_outputs=encoded, cache=cache, **step)
        tokens = torch.cat([tokens, step["decoder_input_ids"]], 1)
    shapes = {spec.name: spec.shape for spec in read_signature(folder / "decode.onnx")[0]}
    past = shapes["input.cache.self_attention_cache.layers.0.keys"][2]
    assert past == "past_sequence_length"
    encoder = shapes["input.cache.cross_attention_cache.layers.0.keys"][2]
    assert encoder == shapes.get("attention_mask", ("", "encoder_sequence_length"))[1] == "encoder_sequence_length"


def test_optimums_classes_report_the_class_for_the_stages_of_a_decoder(traced_gpt2):
    modeling = pytest.importorskip("optimum.onnxruntime.modeling_decoder", exc_type=ImportError)
    with pytest.raises(WrongTaskError, match="ExportedModel"):
        modeling.ORTModelForCausalLM.from_pretrained(traced_gpt2 / "decode.onnx")


def test_missing_files_are_reported(traced_bert, traced_gpt2, tmp_path):
    with pytest.raises(OnnxFileNotFoundError, match="Check the path"):
        ExportedModel.from_pretrained("no-such-file.onnx")
    shutil.copy(traced_gpt2 / "decode.onnx", tmp_path)
    with pytest.raises(MissingSiblingError, match=r"prefill\.onnx is missing"):
        ExportedModel.from_pretrained(tmp_path / "decode.onnx")
    strip = Path(shutil.copy(traced_bert / "model.onnx", tmp_path / "stripped.onnx"))
    strip_metadata(strip)
    with pytest.raises(ConfigLoadError, match=r"has no export\.json"):
        ExportedModel.from_pretrained(strip)
    shutil.copy(traced_bert / "model.onnx", tmp_path / "bert.onnx")
    with pytest.raises(SeveralModelsError, match="contains 2 models"):
        ExportedModel.from_pretrained(tmp_path)


def test_a_repo_of_such_files_loads_by_its_name(traced_gpt2, hub):
    hub.add("me/stamped", traced_gpt2)
    loaded = ExportedModel.from_pretrained("me/stamped")
    assert {*loaded.components} == {"prefill", "decode"}
    assert loaded.config.model_type == "gpt2"
    by_file = ExportedModel.from_pretrained("hf://me/stamped/decode.onnx")
    assert {*by_file.components} == {"prefill", "decode"}


def test_other_files_fail_as_without_hooks(tmp_path):
    for wrong in (tmp_path, "no/such-model", None, 3):
        assert outcome(wrong, hooked=True) == outcome(wrong, hooked=False)


def outcome(name, *, hooked):
    """Return the result of a load of other files."""
    try:
        if not hooked:
            optimum_htp.deactivate()
        return ExportedModel.from_pretrained(name)
    except Exception as error:  # noqa: BLE001 - any exception must be the same
        return type(error), str(error)
    finally:
        optimum_htp.activate()
