"""Generated texts match those of transformers' pipelines on the same file."""

from __future__ import annotations

import json
import shutil
from importlib import metadata

import numpy as np
import pytest

from optimum_htp import HTPExporter
from optimum_htp.errors import ArgumentError, ConfigLoadError, OptionError, PreprocessorLoadError
from optimum_htp.runtime import load
from optimum_htp.runtime.generation.search import generate, warped
from optimum_htp.runtime.generation.settings import GenerationSettings
from optimum_htp.runtime.scores import softmax
from tests.support.answers import assert_equal_answers
from tests.support.marks import text2text
from tests.support.zoo import ZOO
from tests.support.zoo_pipelines import pipeline_of

PROMPTS = ["the cat sat on", "I like it you and"]
# transformers 5 treats a stop sequence as one sequence, and fails with the word tokenizer of the tests.
CLASSIC = int(metadata.version("transformers").partition(".")[0]) < 5
GREEDY = {"do_sample": False, "max_new_tokens": 10}
COMPLETING = [
    GREEDY,
    {**GREEDY, "repetition_penalty": 1.7, "no_repeat_ngram_size": 2},
    {**GREEDY, "num_beams": 3},
    {**GREEDY, "num_beams": 4, "num_return_sequences": 2, "early_stopping": True, "length_penalty": 2.0},
    {**GREEDY, "num_beams": 3, "early_stopping": "never", "no_repeat_ngram_size": 2},
    {**GREEDY, "return_full_text": False},
    {**GREEDY, "min_new_tokens": 5},
    {**GREEDY, "suppress_tokens": [3, 4, 5], "bad_words_ids": [[7], [8, 9]]},
    {**GREEDY, "do_sample": True, "top_k": 1},
    {**GREEDY, "do_sample": True, "top_p": 1e-9, "temperature": 3.0},
    {**GREEDY, "add_special_tokens": False},
    {**GREEDY, "return_full_text": None},
    {**GREEDY, "prefix": "the dog"},
    {**GREEDY, "max_length": 2},
    {**GREEDY, "max_new_tokens": None},
    {**GREEDY, "suppress_tokens": [-1, 10**6]},
    {**GREEDY, "stop_sequence": "cat dog sat"},
    {**GREEDY, "num_beams": 3, "num_return_sequences": 3, "stop_sequence": "cat dog"},
]
TRANSFORMING = [
    {"max_new_tokens": 12},
    {"max_new_tokens": 12, "num_beams": 1},
    {"max_new_tokens": 12, "num_beams": 1, "forced_eos_token_id": 1},
    {"max_new_tokens": 12, "num_beams": 3, "num_return_sequences": 3},
    {"max_new_tokens": 12, "num_beams": 1, "repetition_penalty": 2.0},
    {"max_new_tokens": 12, "num_beams": 1, "stop_sequence": "cat dog"},
]


@pytest.mark.parametrize("name", [name for name, one in ZOO.items() if one.task == "text-generation-with-past"])
def test_completions_match_the_pipeline(name, zoo_export):
    folder = zoo_export(name).output
    expected, model = pipeline_of(name, folder, "text-generation"), load(folder)
    if expected.tokenizer(PROMPTS[0])["input_ids"] != model.tokenizer.encode(PROMPTS[:1])[0].ids:
        pytest.skip("transformers 5 rebuilds this tokenizer, so it differs from tokenizer.json")
    for options in COMPLETING if CLASSIC else [one for one in COMPLETING if "stop_sequence" not in one]:
        for prompts in (PROMPTS[0], PROMPTS):
            assert_equal_answers(model(prompts, **options), expected(prompts, **options), str(options))


@text2text
@pytest.mark.parametrize("name", [name for name, one in ZOO.items() if one.task == "text2text-generation-with-past"])
@pytest.mark.parametrize("decoders", ["merged", "separate"])
def test_transformed_texts_match_the_pipeline(name, decoders, zoo_export, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(zoo_export(name).output, folder)
    for file in ("decoder_model_merged.onnx",) if decoders == "separate" else ("decoder_model.onnx",):
        (folder / file).unlink()
    expected, model = pipeline_of(name, folder, "text2text-generation"), load(folder)
    for options in TRANSFORMING:
        for prompts in (PROMPTS[0], PROMPTS):
            assert_equal_answers(model(prompts, **options), expected(prompts, **options), str(options))


@pytest.mark.parametrize("task", ["text-generation", "text2text-generation"])
def test_decoders_without_cache_generate_the_same_texts(task, zoo_export, tmp_path):
    name = "gpt2" if task == "text-generation" else "t5"
    export = zoo_export(name)
    HTPExporter().export(export.model, tmp_path / "out", task=task)
    options = {"do_sample": False, "max_new_tokens": 8, "num_beams": 2}
    assert load(tmp_path / "out")(PROMPTS, **options) == load(export.output)(PROMPTS, **options)


def test_streamed_pieces_are_the_text(zoo_export):
    model, pieces = load(zoo_export("gpt2").output), []
    ((whole,),) = model([PROMPTS[0]], return_full_text=False, streamer=pieces.append, **GREEDY)
    assert len(pieces) > 1
    assert "".join(pieces).strip() == whole["generated_text"].strip()
    with pytest.raises(ArgumentError, match="num_beams=1"):
        model(PROMPTS[0], streamer=pieces.append, **GREEDY, num_beams=2)


def test_text_ends_with_stop_string(zoo_export):
    model = load(zoo_export("gpt2").output)
    (answer,) = model(PROMPTS[0], return_full_text=False, **GREEDY)
    words = answer["generated_text"].split()
    stop = words[2]
    (stopped,) = model(PROMPTS[0], return_full_text=False, stop_sequence=stop, **GREEDY)
    assert stopped["generated_text"].split() == words[: words.index(stop) + 1]


def test_same_seed_generates_the_same_text(zoo_export):
    model = load(zoo_export("gpt2").output)
    options = {"max_new_tokens": 10, "num_return_sequences": 3}
    texts = model(PROMPTS[0], seed=1, **options)
    assert texts == model(PROMPTS[0], seed=1, **options)
    assert texts != model(PROMPTS[0], seed=2, **options)
    assert len(texts) == 3


def test_tokens_are_sampled_by_probability():
    logits = np.random.default_rng(0).standard_normal((1, 12), dtype=np.float32)
    settings = GenerationSettings(
        do_sample=True, temperature=0.8, top_k=5, max_new_tokens=1, num_return_sequences=20_000, seed=0
    )
    expected = softmax(warped(logits.copy(), settings))[0]

    class Fixed:
        def logits(self, tokens):
            return np.repeat(logits, len(tokens), axis=0)

        def reorder(self, rows):
            raise AssertionError("there are no beams")

    tokens = generate(Fixed(), np.array([[1, 2]]), settings, lambda row: False)[:, -1]
    shares = np.bincount(tokens, minlength=12) / len(tokens)
    assert np.count_nonzero(expected) == 5
    assert np.abs(shares - expected).max() < 0.02


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"diversity": 1}, OptionError, "diversity="),
        ({"max_new_tokens": 0}, ArgumentError, "max_new_tokens=0"),
        ({"temperature": -1.0}, ArgumentError, "greater than 0"),
        ({"num_beams": 2}, ArgumentError, "do_sample=False"),
        ({"num_return_sequences": 2, "do_sample": False}, ArgumentError, "do_sample=True"),
    ],
)
def test_invalid_setting_is_rejected(options, error, text, zoo_export):
    with pytest.raises(error, match=text):
        load(zoo_export("gpt2").output)(PROMPTS[0], **options)


def test_unsupported_setting_of_the_model_is_rejected(zoo_export, tmp_path):
    folder = exported_with({"generation_config.json": json.dumps({"penalty_alpha": 0.6})}, zoo_export, tmp_path)
    with pytest.raises(ConfigLoadError, match="penalty_alpha"):
        load(folder)(PROMPTS[0])


@pytest.mark.skipif(not CLASSIC, reason="transformers 5 does not read task_specific_params")
@pytest.mark.parametrize("params", [{"prefix": "the dog "}, {"do_sample": False, "max_length": 15, "prefix": "a "}])
def test_task_specific_params_are_used(params, zoo_export, tmp_path):
    config = json.loads((zoo_export("gpt2").model / "config.json").read_text())
    config["task_specific_params"] = {"text-generation": params}
    folder = exported_with({"config.json": json.dumps(config)}, zoo_export, tmp_path)
    expected, model = pipeline_of("gpt2", folder, "text-generation"), load(folder)
    for options in (GREEDY, {**GREEDY, "num_beams": 2}):
        assert_equal_answers(model(PROMPTS, **options), expected(PROMPTS, **options))


def exported_with(files, zoo_export, tmp_path):
    """Export GPT-2 with other model files."""
    shutil.copytree(zoo_export("gpt2").model, tmp_path / "model")
    for name, content in files.items():
        (tmp_path / "model" / name).write_text(content)
    HTPExporter().export(tmp_path / "model", tmp_path / "out", task="text-generation-with-past")
    return tmp_path / "out"


def test_chat_without_template_is_rejected(zoo_export):
    with pytest.raises(PreprocessorLoadError, match="chat template"):
        load(zoo_export("gpt2").output)([{"role": "user", "content": "the cat"}])


TEMPLATE = """{% for message in messages %}{{ message['role'] }} {{ message['content'] | trim }}
{% endfor %}{% if add_generation_prompt %}the {{ eos_token }}{% endif %}"""


def test_chats_match_the_pipeline(zoo_export, tmp_path):
    folder = exported_with({"chat_template.jinja": TEMPLATE}, zoo_export, tmp_path)
    expected, model = pipeline_of("gpt2", folder, "text-generation"), load(folder)
    question = [{"role": "user", "content": "the cat"}]
    for chat in (question, [*question, {"role": "assistant", "content": " sat on "}], [question, question]):
        assert_equal_answers(model(chat, **GREEDY), expected(chat, **GREEDY))
