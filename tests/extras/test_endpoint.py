"""`htp endpoint`: the written folder, and its handler."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from importlib.util import find_spec as is_installed

import pytest

import optimum_htp
from optimum_htp import HTPExporter
from optimum_htp.errors import EndpointError, MissingDependencyError
from optimum_htp.extras.endpoint.environment import pinned, reason_against
from optimum_htp.extras.endpoint.folder import write_endpoint
from optimum_htp.extras.push.pushing import push
from optimum_htp.hubs import HubAccess
from tests.conftest import optimum_cli
from tests.support import models
from tests.support.marks import text2text


def test_folder_is_complete(exported, tmp_path):
    made = write_endpoint(exported("bert") / "model.onnx", tmp_path / "out")
    assert made.task == "text-classification"
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert (
        written == set(made.files) >= {"config.json", "handler.py", "model.onnx", "requirements.txt", "tokenizer.json"}
    )
    lines = (tmp_path / "out" / "requirements.txt").read_text().splitlines()
    assert all("==" in line or line.startswith(("#", "--extra-index-url")) for line in lines)
    assert not any("optimum-htp" in line or "+" in line for line in lines)
    assert write_endpoint(tmp_path / "out").files == tuple(sorted(written - {"model.onnx"}))  # in the model's folder


@pytest.mark.parametrize("needed", [True, False])
def test_sentencepiece_is_required_if_it_is_the_only_tokenizer_file(hub, tmp_path, needed):
    folder = models.bert(tmp_path / "model")
    (folder / "spiece.model").write_bytes(b"a model")
    if needed:
        (folder / "tokenizer.json").unlink()
    hub.add("tiny/pieces", folder, pipeline_tag="text-classification")
    file = HTPExporter().export("tiny/pieces", tmp_path / "out").files[0]
    with (
        nullcontext()
        if not needed or is_installed("sentencepiece")
        else pytest.raises(MissingDependencyError, match="pip install sentencepiece")
    ):
        write_endpoint(file, tmp_path / "endpoint")
        text = (tmp_path / "endpoint" / "requirements.txt").read_text()
        assert ("sentencepiece==" in text) is needed


@pytest.mark.parametrize("name", ["handler.py", "requirements.txt", "config.json"])
def test_existing_file_of_user_is_not_replaced(exported, tmp_path, name):
    (tmp_path / name).write_text("theirs")
    with pytest.raises(EndpointError, match=rf"{name} exists and differs.*-o"):
        write_endpoint(exported("bert") / "model.onnx", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "theirs"


@pytest.mark.parametrize("name", ["handler.py", "requirements.txt"])
def test_edited_file_is_not_replaced(exported, tmp_path, name):
    write_endpoint(exported("bert") / "model.onnx", tmp_path)
    with (tmp_path / name).open("a") as file:
        file.write("# mine\n")
    with pytest.raises(EndpointError, match=rf"{name} exists and differs. Delete it"):
        write_endpoint(tmp_path)
    assert (tmp_path / name).read_text().endswith("# mine\n")


@pytest.mark.parametrize("task", ["multiple-choice", "no-such-task"])
def test_task_without_pipeline_is_rejected(exported, tmp_path, task):
    from optimum_htp.onnxfile import rewrite_model

    (tmp_path / "model.onnx").write_bytes((exported("bert") / "model.onnx").read_bytes())
    rewrite_model(tmp_path / "model.onnx", metadata={"hf_task": task})
    with pytest.raises(EndpointError, match=rf"exported for {task}, which no pipeline supports"):
        write_endpoint(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_file_with_unsupported_inputs_is_rejected(exported, tmp_path):
    from optimum_htp.onnxfile import rewrite_model

    (tmp_path / "model.onnx").write_bytes((exported("bert") / "model.onnx").read_bytes())
    rewrite_model(tmp_path / "model.onnx", metadata={"hf_task": "image-classification"})
    with pytest.raises(EndpointError, match=r"no class for image-classification .*: input_ids, "):
        write_endpoint(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_reason_for_pytorch_is_short(tmp_path):
    files = {
        "config.json": "{}",
        "tokenizer.json": "{}",
        "tokenizer_config.json": '{"tokenizer_class": "NllbTokenizer"}',
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    configs = {name: tmp_path / name for name in files}
    reason = reason_against("text-classification", "model.onnx", configs)
    expected = "The tokenizer of model.onnx cannot run without transformers: its class NllbTokenizer is unsupported"
    assert reason == expected


def test_light_endpoint_of_unsupported_task_is_rejected(exported, tmp_path):
    with pytest.raises(EndpointError, match=r"automatic-speech-recognition is not supported .*\. Use --full\.$"):
        write_endpoint(exported("wav2vec2"), tmp_path / "out", is_light=True)


def test_folder_of_several_models_is_rejected(exported, tmp_path):
    for name in ("model.onnx", "other.onnx"):
        (tmp_path / name).write_bytes((exported("bert") / "model.onnx").read_bytes())
    with pytest.raises(EndpointError, match=r"several models \(model.onnx, other.onnx\).*-o"):
        write_endpoint(tmp_path)


def test_missing_distribution_is_rejected():
    with pytest.raises(MissingDependencyError, match="pip install no-such-thing"):
        pinned(["no-such-thing"])


def test_written_files_are_pushed(exported, hub, tmp_path):
    done = optimum_cli("htp", "endpoint", exported("bert"), "-o", tmp_path / "out", "--json")
    assert json.loads(done.stdout)["task"] == "text-classification"
    hub.writers = {"hf_w": {"me"}}
    done = push([tmp_path / "out"], "me/served", access=HubAccess(token="hf_w", cache_dir=tmp_path / "cache"))
    assert {"handler.py", "requirements.txt", "config.json", "model.onnx", "README.md"} <= set(done.files)
    del hub.repos["me/served"]


def answered(folder, body):
    """Return the response of the handler in a folder."""
    scope = {"__name__": "handler"}
    exec(compile((folder / "handler.py").read_text(), "handler.py", "exec"), scope)
    return scope["EndpointHandler"](str(folder))(body)


@text2text
@pytest.mark.parametrize("place", ["", "onnx", "of/the model"])
def test_encoder_and_merged_decoder_are_served(exported, model_folder, tmp_path, place):
    """Other decoders are missing: Optimum's `save_pretrained` writes only these two."""
    import transformers

    (tmp_path / "in" / place).mkdir(parents=True)
    for name in ("encoder_model.onnx", "decoder_model_merged.onnx"):
        shutil.copy(exported("t5") / name, tmp_path / "in" / place)
    write_endpoint(tmp_path / "in", tmp_path / "out")
    options = {"max_new_tokens": 6, "do_sample": False}
    optimum_htp.deactivate()
    try:
        answer = answered(tmp_path / "out", {"inputs": "the cat", "parameters": options})
    finally:
        optimum_htp.activate()
    assert answer == transformers.pipeline("text2text-generation", model=str(model_folder("t5")))("the cat", **options)


@pytest.mark.parametrize("name", ["onnx/model.onnx", "onnx/model_small.onnx", "sub/model_small.onnx"])
def test_file_in_a_folder_is_served_without_this_package(exported, tmp_path, name):
    file = tmp_path / "in" / name
    file.parent.mkdir(parents=True)
    shutil.copy(exported("bert") / "model.onnx", file)
    write_endpoint(tmp_path / "in", tmp_path / "out")
    optimum_htp.deactivate()
    try:
        (answer,) = answered(tmp_path / "out", {"inputs": "the cat"})
    finally:
        optimum_htp.activate()
    assert answer["label"].startswith("LABEL")


def test_pair_of_texts_has_the_result_of_the_pipeline(exported, model_folder, tmp_path):
    import transformers

    write_endpoint(exported("bert"), tmp_path / "out")
    pair = {"text": "the big cat", "text_pair": "the dog"}
    answer = answered(tmp_path / "out", {"inputs": pair})
    expected = transformers.pipeline("text-classification", model=str(model_folder("bert")))(pair)
    assert answer["label"] == expected["label"]
    assert answer["score"] == pytest.approx(expected["score"], abs=1e-4)
