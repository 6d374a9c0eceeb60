"""Optimum's ONNX code with transformers 5: each bridged break, and what works with the bridge."""

from __future__ import annotations

import inspect

import pytest
import transformers

if int(transformers.__version__.partition(".")[0]) < 5:
    pytest.skip("transformers 4 needs no bridge", allow_module_level=True)

import onnx
import optimum.exporters.onnx.convert as convert
import optimum.exporters.onnx.model_patcher as patcher
import torch
from optimum.exporters.onnx import main_export, onnx_export_from_model
from optimum.onnxruntime import modeling, modeling_decoder, modeling_diffusion, modeling_seq2seq, pipelines
from optimum.pipelines import pipeline
from optimum.utils import save_utils

import optimum_htp
from optimum_htp.hooks.newest.breaks import breaks
from optimum_htp.hooks.newest.generating import fill_cache, new_cache
from tests.conftest import optimum_cli
from tests.support.multimodal import colpali
from tests.support.zoo import DEMANDING, ZOO


def built(name: str):
    """Return a tiny model of the zoo."""
    animal = ZOO[name]
    torch.manual_seed(0)
    return getattr(transformers, animal.model)(animal.config()).eval()


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """A tiny GPT-2, and its export."""
    model, folder = built("gpt2"), tmp_path_factory.mktemp("gpt2")
    onnx_export_from_model(model, folder, task="text-generation-with-past", do_validation=False)
    return model, modeling_decoder.ORTModelForCausalLM.from_pretrained(folder)


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    """A tiny T5, and its export with a merged decoder."""
    model, folder = built("t5"), tmp_path_factory.mktemp("t5")
    onnx_export_from_model(model, folder, task="text2text-generation-with-past", do_validation=False)
    return model, modeling_seq2seq.ORTModelForSeq2SeqLM.from_pretrained(folder)


def tokens(rows: int = 2) -> torch.Tensor:
    return torch.randint(3, 39, (rows, 7), generator=torch.Generator().manual_seed(1))


def test_all_known_breaks_are_bridged_for_old_optimum_onnx():
    unbridged = {item.name for item, bridged in breaks().items() if not bridged}
    fixed_in_newer_code = {item.name for item in breaks() if "newest commit" in inspect.getdoc(item.function)}
    assert unbridged <= fixed_in_newer_code
    for item in breaks():
        assert "Obsolete once" in inspect.getdoc(item.function), item.name


@pytest.mark.parametrize(
    ("holder", "name"),
    [
        ("transformers.utils.generic", "_CAN_RECORD_REGISTRY"),
        ("transformers.utils.generic", "OutputRecorder"),
        ("transformers.modeling_utils", "get_parameter_dtype"),
        ("transformers.utils", "is_offline_mode"),
        ("transformers", "AutoModelForVision2Seq"),
        ("transformers", "CLIPFeatureExtractor"),
    ],
)
def test_added_names_are_removed_after_the_import(holder, name):
    assert not hasattr(__import__(holder, fromlist=["x"]), name)


def test_moved_output_registry_and_moved_output_recorder():
    from optimum.exporters.onnx import _traceable_decorator
    from transformers.utils import output_capturing

    assert _traceable_decorator.OutputRecorder is output_capturing.OutputRecorder
    assert _traceable_decorator._CAN_RECORD_REGISTRY is output_capturing._CAN_RECORD_REGISTRY


def test_removed_parameter_dtype():
    if convert.get_parameter_dtype is not None:
        assert convert.get_parameter_dtype(torch.nn.Linear(2, 2).half()) is torch.float16


def test_moved_offline_mode():
    assert modeling.is_offline_mode() is False


def test_renamed_vision_class():
    assert modeling_seq2seq.ORTModelForVision2Seq.auto_model_class is transformers.AutoModelForImageTextToText


def test_renamed_clip_processor():
    imported = getattr(modeling_diffusion, "CLIPFeatureExtractor", transformers.CLIPImageProcessor)
    assert issubclass(imported, transformers.CLIPImageProcessor)


def test_removed_generation_parameters(decoder):
    assert transformers.GPT2Config()._get_non_default_generation_parameters() == {}


def test_decorated_forward(translator):
    """T5's encoder is called by position, and its decorators add `use_cache`."""
    model, exported = translator
    ids = tokens()
    expected = model(input_ids=ids, decoder_input_ids=ids[:, :2], use_cache=False).logits
    mask = torch.ones_like(ids)
    got = exported(input_ids=ids, attention_mask=mask, decoder_input_ids=ids[:, :2]).logits
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def test_model_gets_its_own_forward_back_after_an_export(decoder):
    model, _ = decoder
    assert "forward" not in vars(model)


def test_removed_legacy_caches():
    layers = tuple((torch.ones(1, 2, 3, 4), torch.zeros(1, 2, 3, 4)) for _ in range(2))
    cache = patcher.preprocess_past_key_values(layers)
    assert cache.get_seq_length() == 3
    back = patcher.postprocess_past_key_values(cache, ["present.0.key"])
    assert all(
        torch.equal(one, other) for pair in zip(layers, back, strict=True) for one, other in zip(*pair, strict=True)
    )
    both = patcher.preprocess_past_key_values(tuple((*layer, *layer) for layer in layers))
    assert both.cross_attention_cache.get_seq_length() == 3
    with pytest.raises(ValueError, match="2 or 4"):
        patcher.preprocess_past_key_values((layers[0][:1],))


def test_more_arguments_of_layer_update():
    layer = transformers.cache_utils.DynamicLayer()
    states = torch.ones(1, 2, 3, 4)
    patcher.patched_dynamic_layer_update(layer, states, states, kwargs={"a": 1})
    assert layer.keys.shape == (1, 2, 3, 4)


def test_masks_without_cache_position(decoder):
    """A padding mask has its effect in the exported file."""
    model, exported = decoder
    ids = tokens()
    mask = torch.ones_like(ids)
    ids[0, :3], mask[0, :3] = 0, 0
    expected = model.generate(ids, attention_mask=mask, max_new_tokens=5, pad_token_id=0)
    assert torch.equal(exported.generate(ids, attention_mask=mask, max_new_tokens=5, pad_token_id=0), expected)


def test_boolean_masks_in_half_precision(tmp_path):
    model = built("bert").half()
    onnx_export_from_model(model, tmp_path, task="fill-mask", do_validation=False)
    exported = modeling.ORTModelForMaskedLM.from_pretrained(tmp_path)
    ids, mask = tokens(), torch.ones(2, 7, dtype=torch.long)
    mask[0, 4:] = 0
    expected = model(ids, attention_mask=mask).logits[mask == 1]
    got = exported(ids, attention_mask=mask, token_type_ids=torch.zeros_like(ids)).logits[mask == 1]
    assert got.dtype is torch.float16
    torch.testing.assert_close(got, expected, atol=1e-2, rtol=1e-2)


def test_experts_in_one_tensor(tmp_path):
    model = built("qwen3_moe")
    onnx_export_from_model(model, tmp_path, task="text-generation-with-past", do_validation=False)
    exported = modeling_decoder.ORTModelForCausalLM.from_pretrained(tmp_path)
    for length in (1, 5, 11):  # other numbers of tokens than in the traced example
        ids = torch.arange(3, 3 + length)[None]
        mask = torch.ones_like(ids)
        got = exported(input_ids=ids, attention_mask=mask).logits
        torch.testing.assert_close(got, model(ids).logits, atol=1e-4, rtol=0)


def test_mask_in_encoder_outputs(tmp_path):
    animal = DEMANDING["moonshine"]
    model = getattr(transformers, animal.model)(animal.config()).eval()
    onnx_export_from_model(model, tmp_path, task=animal.task, do_validation=False)
    exported = modeling_seq2seq.ORTModelForSpeechSeq2Seq.from_pretrained(tmp_path)
    sound = torch.randn(1, 8000, generator=torch.Generator().manual_seed(1))
    given = {"input_values": sound, "attention_mask": torch.ones(1, 8000, dtype=torch.long)}
    expected = model.generate(**given, max_new_tokens=5)
    assert torch.equal(exported.generate(**given, max_new_tokens=5), expected)


def test_cache_use_left_in_configs(translator):
    model, _ = translator
    assert model.encoder.config.use_cache is False
    assert model.generate(tokens(), max_new_tokens=2).shape[1] == 3


def test_moved_text_config(tmp_path):
    onnx_export_from_model(colpali(), tmp_path, task="feature-extraction", do_validation=False)
    assert [spec.name for spec in onnx.load(tmp_path / "model.onnx").graph.output] == ["embeddings"]


@pytest.mark.parametrize("size", [{}, {"crop_size": {"height": 28, "width": 28}}])
def test_sizes_of_image_processors(size, tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 7}
    model = transformers.Dinov2ForImageClassification(transformers.Dinov2Config(**sizes)).eval()
    model.save_pretrained(tmp_path)
    transformers.ViTImageProcessor(**size).save_pretrained(tmp_path)
    main_export(str(tmp_path), tmp_path, task="image-classification", do_validation=False)
    exported = modeling.ORTModelForImageClassification.from_pretrained(tmp_path)
    images = {"pixel_values": torch.rand(2, 3, 28, 28, generator=torch.Generator().manual_seed(1))}
    torch.testing.assert_close(exported(**images).logits, model(**images).logits, atol=1e-4, rtol=0)


@pytest.mark.skipif(
    "dynamo" not in inspect.signature(main_export).parameters, reason="this optimum-onnx does not export by dynamo"
)
def test_moved_check_of_image_sizes(tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 7}
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**sizes)).eval()
    onnx_export_from_model(model, tmp_path, task="image-classification", dynamo=True)
    exported = modeling.ORTModelForImageClassification.from_pretrained(tmp_path)
    images = {"pixel_values": torch.rand(3, 3, 28, 28, generator=torch.Generator().manual_seed(1))}
    torch.testing.assert_close(exported(**images).logits, model(**images).logits, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="doesn't match model"):
        model(pixel_values=torch.rand(1, 3, 35, 35))


def test_methods_that_generate_calls():
    assert modeling.ORTModel.is_remote_code() is False
    assert modeling.ORTModel.get_experts_implementation(None) == {}


def test_modalities_that_pipelines_show(masked):
    _, exported = masked
    loaded = modeling.ORTModelForMaskedLM.from_pretrained(exported)
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    assert "text" in repr(transformers.pipeline("fill-mask", model=loaded, tokenizer=tokenizer))


@pytest.mark.parametrize("how", [{}, {"num_beams": 3}, {"do_sample": True}, {"use_cache": False}])
@pytest.mark.parametrize("name", ["decoder", "translator"])
def test_cache_objects_in_generate(name, how, request):
    model, exported = request.getfixturevalue(name)
    answers = []
    for one in (model, exported):
        torch.manual_seed(3)
        answers.append(one.generate(tokens(), max_new_tokens=6, pad_token_id=0, **how))
    assert torch.equal(*answers)


def test_cache_is_a_tuple_in_calls_without_a_cache_object(decoder):
    _, exported = decoder
    ids = tokens()
    past = exported(ids, attention_mask=torch.ones_like(ids), use_cache=True).past_key_values
    assert isinstance(past[0][0], torch.Tensor)
    mask = torch.ones(2, 8, dtype=torch.long)
    again = exported(ids[:, :1], attention_mask=mask, past_key_values=past, use_cache=True)
    assert again.past_key_values[0][0].shape[2] == 8
    cache = new_cache(with_cross_attention=False)
    fill_cache(cache, past)
    given = exported(ids[:, :1], attention_mask=mask, past_key_values=cache, use_cache=True)
    assert given.past_key_values is cache
    torch.testing.assert_close(given.logits, again.logits)


def test_dropped_attention_mask(decoder):
    model, exported = decoder
    expected = model.generate(tokens(), max_new_tokens=4, pad_token_id=0)
    assert torch.equal(exported.generate(tokens(), max_new_tokens=4, pad_token_id=0), expected)


def test_no_attention_mask_for_encoders(translator):
    model, exported = translator
    expected = model.generate(tokens(), max_new_tokens=4)
    assert torch.equal(exported.generate(tokens(), max_new_tokens=4), expected)


def test_renamed_model_loader(decoder):
    with pipelines.patch_pipelines_to_load_ort_model():
        assert transformers.pipelines.load_model(decoder[1], None) is decoder[1]
    assert transformers.pipelines.load_model.__module__ == "transformers.pipelines.base"


def test_adapter_next_to_config(tmp_path):
    """The folder of an adapter has a config, and the base model's weights are in another folder."""
    import peft

    ZOO["bert"].save(tmp_path / "base")
    base = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "base")
    adapted = peft.get_peft_model(base, peft.LoraConfig(target_modules=["query"], r=2, init_lora_weights=False)).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    base.config.save_pretrained(tmp_path / "adapter")
    main_export(str(tmp_path / "adapter"), tmp_path / "onnx", task="fill-mask", do_validation=False)
    exported = modeling.ORTModelForMaskedLM.from_pretrained(tmp_path / "onnx")
    inputs = {name: torch.ones(1, 5, dtype=torch.long) for name in ("input_ids", "attention_mask", "token_type_ids")}
    torch.testing.assert_close(exported(**inputs).logits, adapted(**inputs).logits, atol=1e-4, rtol=0)


def test_empty_tokenizer(masked):
    model, _ = masked
    assert save_utils.maybe_load_preprocessors(model)
    for file in (*model.glob("*token*"), *model.glob("vocab*")):
        file.unlink()
    assert save_utils.maybe_load_preprocessors(model) == []


@pytest.fixture
def masked(tmp_path):
    """A folder with a tiny BERT, and one with its export."""
    ZOO["bert"].save(tmp_path / "model")
    main_export(str(tmp_path / "model"), tmp_path / "onnx", task="fill-mask", do_validation=False)
    return tmp_path / "model", tmp_path / "onnx"


def test_removed_framework_option(masked):
    model, exported = masked
    expected = transformers.pipeline("fill-mask", model=str(model))("the [MASK] sat")
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    loaded = modeling.ORTModelForMaskedLM.from_pretrained(exported)
    for given in (str(exported), loaded):
        fill = pipeline("fill-mask", model=given, tokenizer=tokenizer, accelerator="ort")
        assert [one["token"] for one in fill("the [MASK] sat")] == [one["token"] for one in expected]
    fill = transformers.pipeline("fill-mask", model=loaded, tokenizer=tokenizer)
    assert [one["token"] for one in fill("the [MASK] sat")] == [one["token"] for one in expected]


def test_renamed_image_task():
    assert pipelines.ORT_TASKS_MAPPING["image-text-to-text"] == pipelines.ORT_TASKS_MAPPING["image-to-text"]


def test_export_onnx_of_the_command_line(published, tmp_path):
    model = published("bert")
    optimum_cli("export", "onnx", "--model", model.repo_id, "--task", "text-classification", tmp_path)
    assert onnx.load(tmp_path / "model.onnx").graph.node
    assert optimum_htp.is_hub_model(model.repo_id)
