"""Which files of a repo are configs, weights and preprocessors."""

from __future__ import annotations

import json

import pytest

from optimum_htp.libraries.repo_files import (
    config_files,
    index_shards,
    preprocessor_classes,
    read_json,
    weight_files,
    weight_indexes,
)


def no_shards(index):
    return ()


def test_config_files_are_exactly_the_files_that_loaders_read():
    wanted = [
        "added_tokens.json",
        "additional_chat_templates/rag.jinja",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "preprocessor_config.json",
        "qwen.tiktoken",
        "source.spm",
        "spiece.model",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    other = [".gitattributes", "README.md", "model.safetensors", "onnx/config.json", "trainer_state.json", "code.py"]
    assert config_files([*other, *wanted]) == tuple(wanted)
    assert "code.py" in config_files([*other, *wanted], with_code=True)


def test_configs_of_a_pipeline_are_in_its_folders():
    files = [
        "model_index.json",
        "unet/config.json",
        "tokenizer/vocab.json",
        "scheduler/scheduler_config.json",
        "a/b/config.json",
    ]
    assert set(config_files(files, library="diffusers")) == set(files) - {"a/b/config.json"}


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        (["pytorch_model.bin", "model.safetensors", "tf_model.h5"], ["model.safetensors"]),
        (["pytorch_model.bin", "tf_model.h5", "flax_model.msgpack"], ["pytorch_model.bin"]),
        (["tf_model.h5", "model.gguf"], ["tf_model.h5"]),
        (["model.safetensors", "model.fp16.safetensors", "onnx/model.onnx"], ["model.safetensors"]),
        (["adapter_config.json", "adapter_model.safetensors"], ["adapter_config.json", "adapter_model.safetensors"]),
        (["README.md"], []),
    ],
)
def test_one_format_of_the_weights_is_chosen(files, chosen):
    assert list(weight_files(files, no_shards)) == chosen


def test_shards_are_those_that_the_index_lists(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-2.safetensors", "b": "model-1.safetensors"}}))
    files = ["model-1.safetensors", "model-2.safetensors", "model-3.safetensors", index.name]
    assert weight_indexes(files) == (index.name,)
    chosen = weight_files(files, lambda name: index_shards(tmp_path / name))
    assert chosen == (index.name, "model-1.safetensors", "model-2.safetensors")


def test_index_that_cannot_be_read_lists_nothing(tmp_path):
    (tmp_path / "broken.json").write_text("[1, 2")
    assert index_shards(tmp_path / "broken.json") == index_shards(tmp_path / "none.json") == ()


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b"7",
        b'{"weight_map": 3}',
        b'{"weight_map": {"a": 1, "b": ["x"], "c": null, "d": "../out.safetensors", "e": "/etc/passwd", "f": ""}}',
        b'{"a":' * 100_000,
        b"[" * 500 + b"]" * 500,
        b"\xff",
    ],
    ids=lambda content: repr(content[:20]),
)
def test_invalid_index_lists_nothing(tmp_path, content):
    index = tmp_path / "model.safetensors.index.json"
    index.write_bytes(content)
    assert index_shards(index) == ()
    assert read_json(index) is None or len(content) < 200


def test_weights_of_a_pipeline_are_one_format_in_each_folder():
    files = [
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder/model.safetensors",
        "text_encoder/pytorch_model.bin",
        "v1-5-pruned.safetensors",
    ]
    assert weight_files(files, no_shards, library="diffusers") == (
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
    )


@pytest.mark.parametrize(
    ("files", "configs", "classes"),
    [
        (["tokenizer.json"], {}, ["AutoTokenizer"]),
        (["source.spm", "target.spm"], {}, ["AutoTokenizer"]),
        ([], {"preprocessor_config.json": {"image_processor_type": "ViTImageProcessor"}}, ["AutoImageProcessor"]),
        ([], {"preprocessor_config.json": {"feature_extractor_type": "ViTFeatureExtractor"}}, ["AutoImageProcessor"]),
        (
            [],
            {"preprocessor_config.json": {"feature_extractor_type": "Wav2Vec2FeatureExtractor"}},
            ["AutoFeatureExtractor"],
        ),
        ([], {"preprocessor_config.json": {"do_resize": True, "image_mean": [0.5]}}, ["AutoImageProcessor"]),
        ([], {"preprocessor_config.json": {"sampling_rate": 16000}}, ["AutoFeatureExtractor"]),
        (
            ["tokenizer.json"],
            {
                "preprocessor_config.json": {"feature_extractor_type": "WhisperFeatureExtractor"},
                "tokenizer_config.json": {"processor_class": "WhisperProcessor"},
            },
            ["AutoProcessor", "AutoFeatureExtractor", "AutoTokenizer"],
        ),
        (["tokenizer.json"], {"tokenizer_config.json": {"processor_class": "NoSuchThing"}}, ["AutoTokenizer"]),
        (["config.json"], {"config.json": {}}, []),
        (["tokenizer.json"], {"tokenizer_config.json": {"auto_map": 3, "processor_class": []}}, ["AutoTokenizer"]),
        (
            [],
            {"preprocessor_config.json": {"auto_map": "AutoImageProcessor", "feature_extractor_type": 5}},
            ["AutoFeatureExtractor"],
        ),
    ],
)
def test_preprocessors_are_inferred_from_files(files, configs, classes):
    assert list(preprocessor_classes(files, configs)) == classes
