"""Preprocessed images match those of transformers' image processors, pixel by pixel."""

from __future__ import annotations

import base64
import json
from inspect import signature

import numpy as np
import pytest
import transformers
from PIL import Image

from optimum_htp.errors import ArgumentError, PreprocessorLoadError
from optimum_htp.runtime.images import _CLASSES, load_image_processor

SIZES = [(32, 32), (50, 37), (20, 90), (7, 5), (300, 200)]
IMAGES = [
    Image.fromarray(np.random.default_rng(index).integers(0, 256, (*size, 3), np.uint8))
    for index, size in enumerate(SIZES)
]
CLASSIC = transformers.__version__ < "5"


def made(name, **settings):
    return getattr(transformers, f"{name}ImageProcessor")(**settings)


def loaded(processor):
    content = json.dumps(json.loads(processor.to_json_string())).encode()
    return load_image_processor({"preprocessor_config.json": content}, "model.onnx")


SETTINGS = [
    {},
    {"do_center_crop": True, "crop_size": {"height": 24, "width": 40}},
    {"do_resize": False, "do_normalize": False},
    {"do_rescale": False, "image_mean": [1.0, 2.0, 3.0], "image_std": [4.0, 5.0, 6.0]},
    {"resample": 0, "do_flip_channel_order": False},
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", _CLASSES)
def test_pixels_match_the_class(name, settings):
    if CLASSIC:
        known = signature(getattr(transformers, f"{name}ImageProcessor").__init__).parameters
        settings = {key: value for key, value in settings.items() if key in known}
    elif _CLASSES[name].crops is None:
        settings = {key: value for key, value in settings.items() if "crop" not in key}
    processor = made(name, **settings)
    ours = loaded(processor)
    for image in IMAGES:
        expected = processor(images=image, return_tensors="np")["pixel_values"][0]
        found = ours(image)
        assert found.shape == expected.shape, image.size
        assert np.abs(found - expected).max() < 1e-5, image.size


def test_convnext_crops_only_small_sizes():
    for edge in (32, 384):
        processor = made("ConvNext", size={"shortest_edge": edge}, crop_pct=0.8)
        expected = processor(images=IMAGES[1], return_tensors="np")["pixel_values"][0]
        assert np.abs(loaded(processor)(IMAGES[1]) - expected).max() < 1e-5


def test_settings_of_older_versions_are_supported():
    colours = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    old = {"feature_extractor_type": "ViTFeatureExtractor", "size": 24, **colours}
    found = load_image_processor({"preprocessor_config.json": json.dumps(old).encode()}, "model.onnx")(IMAGES[0])
    new = made("ViT", size={"height": 24, "width": 24}, **colours)
    assert np.abs(found - new(images=IMAGES[0], return_tensors="np")["pixel_values"][0]).max() < 1e-6


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"image_processor_type": "ImageGPTImageProcessor"}, "ImageGPTImageProcessor"),
        ({}, "None"),
        ({"image_processor_type": "ViTImageProcessor", "size": {"longest_edge": 3}}, "height"),
        ({"image_processor_type": "CLIPImageProcessor", "size": {"longest_edge": 3}, "crop_size": 3}, "shortest_edge"),
        ({"image_processor_type": "ViTImageProcessor", "size": 3, "image_mean": [1, 2], "image_std": 1}, "image_mean"),
        ({"image_processor_type": "ViTImageProcessor", "size": "large"}, "large"),
        ({"image_processor_type": "ViTImageProcessor", "size": 8, "do_center_crop": True}, "do_center_crop"),
    ],
)
def test_unsupported_setting_is_rejected(content, reason):
    with pytest.raises(PreprocessorLoadError, match=reason):
        load_image_processor({"preprocessor_config.json": json.dumps(content).encode()}, "model.onnx")


def test_image_can_be_a_path_or_its_content(tmp_path):
    processor = loaded(made("ViT"))
    IMAGES[0].save(tmp_path / "image.png")
    expected = processor(IMAGES[0])
    assert np.array_equal(processor(tmp_path / "image.png"), expected)
    assert np.array_equal(processor(str(tmp_path / "image.png")), expected)
    content = (tmp_path / "image.png").read_bytes()
    assert np.array_equal(processor(content), expected)
    url = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    assert np.array_equal(processor(url), processor(transformers.image_utils.load_image(url)))
    with pytest.raises(ArgumentError, match="cannot be read"):
        processor("data:image/png;base64,a")


def test_image_is_rotated_by_its_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    IMAGES[1].save(tmp_path / "turned.jpg", exif=exif)
    processor = made("ViT", do_resize=False)
    with Image.open(tmp_path / "turned.jpg") as image:
        assert loaded(processor)(tmp_path / "turned.jpg").shape == (3, image.size[0], image.size[1])


def test_image_with_too_many_pixels_is_rejected(monkeypatch, tmp_path):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    IMAGES[0].save(tmp_path / "image.png")
    with pytest.raises(ArgumentError, match="cannot be read"):
        loaded(made("ViT"))(tmp_path / "image.png")
