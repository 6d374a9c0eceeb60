"""Damaged or malicious files cause an error of this package, not an exception of a dependency."""

from __future__ import annotations

import base64
import json
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from optimum_htp.errors import (
    ArgumentError,
    ConfigLoadError,
    InferenceError,
    OptimumHTPError,
    PreprocessorLoadError,
    WrongTaskError,
)
from optimum_htp.runtime import load
from optimum_htp.runtime.images import load_image_processor
from optimum_htp.runtime.scores import class_scores, labels_of, ranked
from optimum_htp.runtime.tokenizer_classes import wrong_setting
from optimum_htp.runtime.tokenizer_files import load_tokenizer

IMAGE = Image.new("RGB", (40, 30))


def processor(**settings):
    usual = {"image_processor_type": "ViTImageProcessor", "size": 32, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    return load_image_processor({"preprocessor_config.json": json.dumps({**usual, **settings}).encode()}, "it")


@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"height": 10**9, "width": 10**9}},
        {"size": 10**400},
        {"size": 0},
        {"size": {"height": -3, "width": 3}},
        {"size": {"height": float("inf"), "width": 3}},
        {"size": {"height": 31.5, "width": 32}},
        {"image_std": [0, 0, 0]},
        {"image_std": [float("nan")] * 3},
        {"image_mean": None},
        {"rescale_factor": float("inf")},
        {"resample": 99},
        {"resample": "bilinear"},
        {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 0}, "do_center_crop": False},
        {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 9}, "crop_size": 10**9},
        {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 9}, "crop_pct": 1e-9},
    ],
)
def test_invalid_image_setting_is_rejected(settings):
    assert processor()(IMAGE).shape == (3, 32, 32)
    with pytest.raises(PreprocessorLoadError, match="Optimum"):
        processor(**settings)


def test_narrow_image_is_not_resized_to_a_huge_one():
    resizing = processor(image_processor_type="BitImageProcessor", size={"shortest_edge": 4000}, do_center_crop=False)
    with pytest.raises(ArgumentError, match="resized"):
        resizing(Image.new("RGB", (1, 4000)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pad_token", ["x"]),
        ("pad_token", {"content": 3}),
        ("model_max_length", "12"),
        ("model_max_length", -5),
        ("model_max_length", float("nan")),
        ("added_tokens_decoder", [{"content": "x"}]),
        ("added_tokens_decoder", {"x": {"content": "x"}}),
        ("added_tokens_decoder", {"-5": {"content": "x"}}),
        ("added_tokens_decoder", {"5": "x"}),
        ("added_tokens_decoder", {"5": {"content": "x", "lstrip": "x"}}),
        ("additional_special_tokens", [3]),
        ("do_lower_case", "False"),
        ("padding_side", "top"),
        ("model_input_names", ["words"]),
        ("tokenizer_class", ["BertTokenizer"]),
    ],
)
def test_invalid_tokenizer_setting_is_rejected(name, value, zoo_export):
    with pytest.raises(PreprocessorLoadError, match="Optimum"):
        tokenizer(zoo_export, lambda settings: json.dumps({**settings, name: value}))


@pytest.mark.parametrize("content", ["[1]", "{", "null"])
def test_tokenizer_config_must_be_an_object(content, zoo_export):
    with pytest.raises(PreprocessorLoadError, match="not a JSON object"):
        tokenizer(zoo_export, lambda settings: content)


def tokenizer(zoo_export, change):
    model = load(zoo_export("bert").output)
    files = dict(model.source.files("AutoTokenizer"))
    content = change(json.loads(files["tokenizer_config.json"]))
    return load_tokenizer({**files, "tokenizer_config.json": content.encode()}, model.config, "it")


def replacing(text, by, kind="String"):
    return {"type": "Replace", "pattern": {kind: text}, "content": by}


def charsmap(content):
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(content).decode()}


TWICE = {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 2, "special_tokens": {}}
TWICE["pair"] = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
WORDS = {"type": "WordPiece", "unk_token": "a", "continuing_subword_prefix": "##", "vocab": {"a": 0}}


@pytest.mark.parametrize(
    "part",
    [
        {"normalizer": {"type": "Sequence", "normalizers": [replacing("a", "aa")] * 40}},
        {"decoder": {"type": "Sequence", "decoders": [replacing("a", "aa")] * 40}},
        {"post_processor": {"type": "Sequence", "processors": [TWICE] * 40}},
        {"normalizer": replacing("a", "a" * 9999)},
        {"normalizer": {"type": "Prepend", "prepend": "a" * 9999}},
        {"normalizer": charsmap(b"\xfe\xff\xff\xff\1\2\3\4")},
        {"normalizer": charsmap(b"")},
        {"model": {**WORDS, "max_input_chars_per_word": 10**9}},
    ],
    ids=repr,
)
def test_tokenizer_that_makes_long_texts_is_rejected(part, zoo_export):
    with pytest.raises(PreprocessorLoadError, match=r"tokenizer.json of it cannot be read: .*get the file again"):
        tokenizer_of(zoo_export, part)


@pytest.mark.parametrize(
    "normalizer",
    [replacing("(a+)+$", "x", "Regex"), charsmap(b"\4\0\0\0\xff\xff\xff\xff")],
    ids=["search", "table"],
)
def test_panic_of_tokenizers_is_an_error(normalizer, zoo_export):
    found = tokenizer_of(zoo_export, {"normalizer": normalizer})
    with pytest.raises(ArgumentError, match="cannot be tokenized"):
        found.encode(["a" * 5000 + " b"])


def tokenizer_of(zoo_export, part):
    model = load(zoo_export("bert").output)
    files = dict(model.source.files("AutoTokenizer"))
    changed_file = json.dumps({**json.loads(files["tokenizer.json"]), **part}).encode()
    settings = json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}).encode()
    return load_tokenizer({"tokenizer.json": changed_file, "tokenizer_config.json": settings}, model.config, "it")


def test_very_large_length_is_valid():
    assert wrong_setting({"model_max_length": 10**30}) is None
    assert wrong_setting({"model_max_length": 1e30}) is None


def test_labels_come_from_the_config():
    scores = class_scores(np.array([1, 2], np.float32), {"id2label": {"0": 7, "1": None}})
    assert [one["label"] for one in ranked(scores, {"id2label": {"0": 7, "1": None}}, None)] == [None, 7]
    with pytest.raises(ConfigLoadError, match="class 1"):
        ranked(scores, {"id2label": {"0": "a", "2": "b"}}, None)
    with pytest.raises(ConfigLoadError, match="an integer"):
        labels_of({"id2label": {"x": "a"}})
    with pytest.raises(ConfigLoadError, match="num_labels"):
        labels_of({"num_labels": 10**9})


def changed(export, folder, last):
    """Copy an export and add a node after its first output."""
    shutil.copytree(export, folder)
    model = onnx.load(folder / "model.onnx")
    output = model.graph.output[0]
    for node in model.graph.node:
        for names in (node.output, node.input):
            names[:] = [f"{name}_before" if name == output.name else name for name in names]
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1]), "all"))
    kind, shape = last(model.graph, output.name)
    output.CopyFrom(helper.make_tensor_value_info(output.name, kind, shape))
    onnx.save(model, folder / "model.onnx")
    return folder


def add(operator, *more, kind=TensorProto.FLOAT, shape=None, **attributes):
    def last(graph, name):
        graph.node.append(helper.make_node(operator, [f"{name}_before", *more], [name], **attributes))
        return kind, shape

    return last


OUTPUTS = {
    "one axis": add("Reshape", "all"),
    "no axis": add("ReduceMean", shape=[], keepdims=0),
    "one axis more": add("Unsqueeze", "all"),
    "texts": add("Cast", kind=TensorProto.STRING, to=TensorProto.STRING),
    "integers": add("Cast", kind=TensorProto.INT64, to=TensorProto.INT64),
}
CALLS = {
    "roberta": ("the cat", {}),
    "bert": ("the [MASK]", {}),
    "distilbert": ({"question": "who?", "context": "the cat"}, {}),
    "deberta-v2": ("the cat", {"aggregation_strategy": "max"}),
    "resnet": (IMAGE, {}),
    "gpt2": ("the cat", {"do_sample": False, "max_new_tokens": 2}),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kind", OUTPUTS)
def test_unexpected_output_is_rejected(name, kind, zoo_export, tmp_path):
    folder = changed(zoo_export(name).output, tmp_path / "model", OUTPUTS[kind])
    inputs, options = CALLS[name]
    with pytest.raises(WrongTaskError, match=r"does not fit the task|instead of"):
        load(folder)(inputs, **options)


def test_nan_scores_are_rejected(zoo_export, tmp_path):
    folder = changed(zoo_export("gpt2").output, tmp_path / "model", add("Log"))
    with pytest.raises(InferenceError, match="NaN"):
        load(folder)("the cat", do_sample=False, max_new_tokens=3)


@pytest.mark.parametrize("value", [[[1, 2], [3]], [["x"]], [[10**30]], None])
def test_invalid_arrays_are_rejected(value, zoo_export):
    with pytest.raises(ArgumentError):
        load(zoo_export("gpt2").output).run(input_ids=value)


@pytest.mark.parametrize(
    ("name", "inputs", "options"),
    [
        ("roberta", "\ud800", {}),
        ("bert", [3], {}),
        ("bert", "the [MASK]", {"targets": [3]}),
        ("bert", "the [MASK]", {"top_k": "3"}),
        ("roberta", "a", {"top_k": "2"}),
        ("roberta", "a", {"max_length": -1}),
        ("roberta", "a", {"max_length": 1.5}),
        ("roberta", "a", {"function_to_apply": 1}),
        ("distilbert", None, {"question": 3, "context": "the cat"}),
        ("distilbert", None, {"question": "the cat sat", "context": "the cat " * 40, "max_seq_len": 12}),
        ("deberta-v2", "a", {"ignore_labels": "O"}),
        ("gpt2", "a", {"eos_token_id": "x"}),
        ("gpt2", "a", {"bad_words_ids": [[]]}),
        ("gpt2", "a", {"bad_words_ids": [[10**7]]}),
        ("gpt2", "a", {"temperature": "hot"}),
        ("gpt2", "a", {"num_return_sequences": 10**9}),
        ("gpt2", "a", {"stop_sequence": ""}),
        ("gpt2", "a b", {"max_length": 1, "max_new_tokens": None}),
    ],
)
def test_invalid_value_is_rejected(name, inputs, options, zoo_export):
    with pytest.raises(OptimumHTPError):
        load(zoo_export(name).output)(*([] if inputs is None else [inputs]), **options)


@pytest.mark.parametrize("template", ["no place", "{", "{x}", "{} {}", "{:>1000000000}", "{.__class__}", 3])
def test_hypothesis_template_only_inserts_the_label(template, zoo_export):
    with pytest.raises(ArgumentError, match="hypothesis_template"):
        load(zoo_export("roberta").output, task="zero-shot-classification")("a", "b", hypothesis_template=template)
