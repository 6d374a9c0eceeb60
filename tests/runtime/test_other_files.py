"""Files of older Optimum versions, optimized files, and the ways to name a file."""

from __future__ import annotations

import re
import shutil

import onnx
import pytest

from optimum_htp import HTPExporter, inject_hub_metadata
from optimum_htp.errors import ArgumentError, OnnxFileNotFoundError, OptimumHTPError, WrongTaskError
from optimum_htp.runtime import load
from tests.support.answers import assert_equal_answers

PROMPTS = ["the cat sat on", "I like it you and"]
GREEDY = {"do_sample": False, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def older_decoders(zoo_export, tmp_path_factory):
    """The decoders of GPT-2 as older Optimum versions exported them: without cache inputs, with them, and merged."""
    from optimum.exporters.onnx import export
    from optimum.exporters.tasks import TasksManager
    from optimum.onnx import merge_decoders
    from transformers import AutoModelForCausalLM

    source, folder = zoo_export("gpt2").model, tmp_path_factory.mktemp("older")
    model = AutoModelForCausalLM.from_pretrained(source)
    make = TasksManager.get_exporter_config_constructor("onnx", model=model, task="text-generation")
    for name, has_past in (("decoder_model.onnx", False), ("decoder_with_past_model.onnx", True)):
        config = make(model.config, task="text-generation", use_past=True, use_past_in_inputs=has_past)
        export(model, config, folder / name, opset=18)
    merge_decoders(
        folder / "decoder_model.onnx",
        folder / "decoder_with_past_model.onnx",
        save_path=folder / "decoder_model_merged.onnx",
    )
    for path in folder.glob("*.onnx"):
        inject_hub_metadata(path, source, task="text-generation-with-past")
    return folder


@pytest.mark.parametrize("name", ["decoder_model", "decoder_with_past_model", "decoder_model_merged"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}])
def test_older_decoders_generate_the_same_texts(name, options, older_decoders, zoo_export):
    model, expected = load(older_decoders / f"{name}.onnx"), load(zoo_export("gpt2").output)
    assert ("use_cache_branch" in model.part.inputs) == (name == "decoder_model_merged")
    assert model(PROMPTS, **GREEDY, **options) == expected(PROMPTS, **GREEDY, **options)


def test_merged_axes_of_a_cache_are_rejected(zoo_export, tmp_path):
    model = onnx.load(zoo_export("gpt2").output / "model.onnx")
    for tensor in model.graph.input:
        if tensor.name.startswith("past_key_values."):
            tensor.type.tensor_type.shape.dim[0].dim_param = "batch_size_x_num_heads"
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(WrongTaskError, match=r"unsupported shape .*With Optimum: "):
        load(tmp_path / "model.onnx")(PROMPTS[0], **GREEDY)


@pytest.mark.parametrize(
    ("name", "inputs", "options"),
    [
        ("gpt2", PROMPTS, {**GREEDY, "num_beams": 3}),
        ("t5", PROMPTS, {"max_new_tokens": 8}),
        ("bert", ["the [MASK] sat", "I [MASK] it me"], {"batch_size": 2}),
    ],
)
def test_slim_files_have_the_same_results(name, inputs, options, zoo_export, tmp_path):
    pytest.importorskip("onnxslim")
    expected = load(zoo_export(name).output)
    HTPExporter().export(zoo_export(name).model, tmp_path / "out", task=expected.record.task, slim=True)
    assert_equal_answers(load(tmp_path / "out")(inputs, **options), expected(inputs, **options))


@pytest.fixture
def folder(zoo_export, tmp_path):
    """A folder with a file in a subfolder."""
    (tmp_path / "sub").mkdir()
    shutil.copy(zoo_export("roberta").output / "model.onnx", tmp_path / "sub" / "small.onnx")
    return tmp_path


def test_file_is_found_by_file_name_and_subfolder(folder):
    expected = folder / "sub" / "small.onnx"
    assert load(folder / "sub", file_name="small.onnx").source.path == expected
    assert load(folder, subfolder="sub").source.path == expected
    assert load(folder, subfolder="sub", file_name="small.onnx").source.path == expected


def test_hub_file_is_found_by_file_name_and_subfolder(folder, hub):
    hub.add("me/variants", {"sub/small.onnx": (folder / "sub" / "small.onnx").read_bytes()})
    assert load("me/variants", subfolder="sub", file_name="small.onnx")("I like it") == load(folder / "sub")(
        "I like it"
    )


@pytest.mark.parametrize(
    ("path", "options", "error", "text"),
    [
        ("sub", {"file_name": "no.onnx"}, OnnxFileNotFoundError, r"no\.onnx"),
        ("", {"subfolder": "no"}, OnnxFileNotFoundError, "no ONNX file"),
        ("sub/small.onnx", {"file_name": "small.onnx"}, ArgumentError, "file_name="),
        ("sub/small.onnx", {"subfolder": "sub"}, ArgumentError, "subfolder="),
    ],
)
def test_wrong_file_name_or_subfolder_is_rejected(path, options, error, text, folder):
    with pytest.raises(error, match=text):
        load(folder / path, **options)


def suggestion(call):
    """Return the call with Optimum in the message of an error."""
    with pytest.raises(OptimumHTPError) as caught:
        call()
    (code,) = re.findall(r"With Optimum: `(.*)`\.$", str(caught.value))
    return code


def test_suggested_calls_work(zoo_export):
    import optimum.pipelines

    import optimum_htp

    path = zoo_export("roberta").output / "model.onnx"
    code = suggestion(lambda: load(path)("I like it", topk=1))
    assert eval(code, {"optimum": optimum})("I like it")[0]["label"].startswith("LABEL_")
    path = zoo_export("electra").output / "model.onnx"
    model, _ = eval(suggestion(lambda: load(path)("I like it")), {"optimum_htp": optimum_htp})
    assert type(model).__name__ == "ORTModelForMultipleChoice"


@pytest.mark.parametrize(
    "options",
    [{"diversity": 1}, {"num_beams": 2, "do_sample": True}, {"num_return_sequences": 1001, "do_sample": True}],
)
def test_unsupported_generation_settings_suggest_optimum(options, zoo_export):
    path = zoo_export("gpt2").output / "model.onnx"
    assert suggestion(lambda: load(path)(PROMPTS[0], **options)).startswith("optimum.pipelines.pipeline(")


def test_unknown_task_suggests_optimum(zoo_export):
    assert "'summarization'" in suggestion(lambda: load(zoo_export("t5").output, task="summarization"))
