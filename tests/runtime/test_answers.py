"""The results match those of transformers' pipelines on the same file."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from optimum_htp.errors import ArgumentError, OptionError, PreprocessorLoadError, WrongTaskError
from optimum_htp.runtime import load
from tests.support.answers import assert_equal_answers
from tests.support.zoo import ZOO
from tests.support.zoo_pipelines import needing_pipeline, pipeline_of

TEXT = "you and me, the cat sat on the mat. A big sentence with many Words Of all kinds and unknown ones: XYZ!"
TEXTS = ["I like it", TEXT]
PAIR = {"text": "the cat", "text_pair": "a big mat"}
LONG = TEXT * 30
IMAGES = [
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))
    for height, width in ((32, 32), (50, 37), (20, 90))
]

CALLS = {
    "text-classification": [
        (TEXT, {}),
        (TEXTS, {}),
        (TEXTS, {"top_k": 2}),
        (TEXT, {"top_k": None}),
        (TEXT, {"top_k": 1}),
        (PAIR, {}),
        (TEXTS, {"batch_size": 2}),
        (TEXT, {"function_to_apply": "sigmoid"}),
        (TEXT, {"function_to_apply": "none"}),
        (LONG, {"truncation": True, "max_length": 20}),
        (LONG, {"max_length": 20}),
        ({"text": "the cat", "text_pair": ""}, {}),
        (TEXTS, {"top_k": -1}),
    ],
    "fill-mask": [
        ("the [MASK] sat", {}),
        (["the [MASK] sat", "I [MASK] it [MASK] me"], {"top_k": 3}),
        (["the [MASK] sat"], {}),
        ("the [MASK] sat", {"targets": ["cat", "the"]}),
        ("the [MASK] sat", {"top_k": None}),
    ],
    "question-answering": [
        ([], {}),
        (None, {"question": "who sat?", "context": TEXT}),
        (None, {"question": "who sat?", "context": TEXT, "align_to_words": None, "top_k": None}),
        (None, {"question": "who?", "context": "the cat", "max_seq_len": 20, "doc_stride": 18}),
        (None, {"question": "who sat?", "context": LONG, "top_k": 3}),
        (
            None,
            {"question": ["who sat?", "what?"], "context": [TEXT, "the cat"], "handle_impossible_answer": True},
        ),
        (
            None,
            {
                "question": "who?",
                "context": LONG,
                "doc_stride": 10,
                "max_seq_len": 40,
                "max_answer_len": 4,
                "align_to_words": False,
            },
        ),
    ],
    "token-classification": [
        (TEXT, {}),
        *(
            (TEXTS, {"aggregation_strategy": one, "ignore_labels": []})
            for one in ("first", "average", "max", "simple")
        ),
        (TEXTS, {"aggregation_strategy": "simple", "ignore_labels": ["LABEL_0"]}),
        (TEXT, {"ignore_labels": None}),
    ],
    "feature-extraction": [(TEXT, {}), (TEXTS, {}), (TEXTS, {"batch_size": 2})],
    "image-classification": [
        (IMAGES[0], {}),
        (IMAGES, {"top_k": 2}),
        (IMAGES, {"top_k": 0}),
        (IMAGES[1], {"function_to_apply": "sigmoid"}),
        (IMAGES[2].convert("L"), {}),
        (IMAGES[2].convert("RGBA"), {}),
    ],
}
NAMES = [name for name, animal in ZOO.items() if animal.task in CALLS and animal.kind != "boxes"]


@pytest.mark.parametrize("name", NAMES)
def test_results_match_the_pipeline(name, zoo_export):
    folder, task = zoo_export(name).output, ZOO[name].task
    needing_pipeline(task)
    expected, model = pipeline_of(name, folder), load(folder)
    for inputs, options in CALLS[task]:
        given = () if inputs is None else (inputs,)
        assert_equal_answers(model(*given, **options), expected(*given, **options), f"{task} {options}"[:80])


@pytest.mark.parametrize("options", [{}, {"multi_label": True}, {"hypothesis_template": "It is about {}."}])
def test_zero_shot_labels_match_the_pipeline(options, zoo_export):
    folder = zoo_export("roberta").output
    expected = pipeline_of("roberta", folder, "zero-shot-classification")
    model = load(folder, task="zero-shot-classification")
    for inputs in (TEXT, TEXTS):
        for labels in ("cat, mat", ["big", "cat", "mat"], ["cat"]):
            assert_equal_answers(model(inputs, labels, **options), expected(inputs, labels, **options))


def test_questions_as_dictionaries(zoo_export):
    model = load(zoo_export("distilbert").output)
    one = model(question="who sat?", context=TEXT)
    assert model({"question": "who sat?", "context": TEXT}) == one
    assert model([{"question": "who sat?", "context": TEXT}] * 2) == [one, one]


@pytest.mark.parametrize(
    ("name", "inputs", "options", "error", "text"),
    [
        ("roberta", TEXT, {"topk": 1}, OptionError, "topk"),
        ("roberta", 3, {}, ArgumentError, "not int"),
        ("roberta", TEXT, {"truncation": "some"}, ArgumentError, "only_first"),
        ("roberta", TEXT, {"function_to_apply": "tanh"}, ArgumentError, "softmax"),
        ("roberta", TEXT, {"batch_size": 0}, ArgumentError, "at least 1"),
        ("roberta", LONG, {}, ArgumentError, "truncation=True"),
        ("bert", "no mask", {}, ArgumentError, r"\[MASK\]"),
        ("bert", "the [MASK]", {"targets": []}, ArgumentError, "targets"),
        ("distilbert", {"question": "who?"}, {}, ArgumentError, "one for the context"),
        ("distilbert", {"question": "who?", "context": ""}, {}, ArgumentError, "question and one for the context"),
        ("deberta-v2", TEXT, {"aggregation_strategy": "best"}, ArgumentError, "simple"),
        ("deberta-v2", TEXT, {"stride": 4}, ArgumentError, "aggregation_strategy"),
        ("resnet", "http://127.0.0.1/image.png", {}, ArgumentError, "not downloaded"),
        ("resnet", b"no image", {}, ArgumentError, "cannot be read"),
        ("resnet", 3, {}, ArgumentError, "not int"),
        ("electra", TEXT, {}, WrongTaskError, "multiple-choice"),
    ],
)
def test_invalid_call_is_rejected(name, inputs, options, error, text, zoo_export):
    model = load(zoo_export(name).output)
    with pytest.raises(error, match=text):
        model(inputs, **options)


def test_unknown_task_is_rejected(zoo_export):
    with pytest.raises(WrongTaskError, match="text-classification"):
        load(zoo_export("bert").output, task="poetry")


def test_model_of_images_has_no_tokenizer(zoo_export):
    with pytest.raises(PreprocessorLoadError):
        _ = load(zoo_export("resnet").output).tokenizer


def test_outputs_match_onnxruntime(zoo_export):
    import onnxruntime

    path = zoo_export("bert").output / "model.onnx"
    model, inputs = (
        load(path),
        {"input_ids": [[1, 2, 3]], "attention_mask": [[1, 1, 1]], "token_type_ids": [[0, 0, 0]]},
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {name: np.array(value) for name, value in inputs.items()})
    assert np.array_equal(model.run(**inputs)["logits"], expected)
    with pytest.raises(ArgumentError, match="needs the input 'token_type_ids'"):
        model.run(input_ids=[[1]], attention_mask=[[1]])
    with pytest.raises(ArgumentError, match="no input 'words'"):
        model.run(words=[[1]], **inputs)
    with pytest.raises(ArgumentError, match="does not take"):
        model.run(**{**inputs, "input_ids": [1, 2, 3]})
