"""`htp verify` distinguishes the faults of a record."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from optimum_htp import extract_module, inject_hub_metadata, verify_metadata
from optimum_htp.errors import MismatchError
from optimum_htp.fit.graphs import task_fit
from optimum_htp.metadata import read_record
from optimum_htp.onnxfile import read_graph, read_metadata, rewrite_model
from optimum_htp.stamping.verify import Status
from tests.conftest import optimum_cli


def test_every_result_has_its_own_exit_code(plain_bert, hub, access, tmp_path, empty_home):
    def verify():
        done = optimum_cli("htp", "verify", plain_bert, check=False, **empty_home)
        return done.returncode, done.stdout + done.stderr

    code, text = verify()
    assert (code, "no record" in text) == (1, True)
    inject_hub_metadata(plain_bert, "tiny/bert", access=access, embed="none")
    code, text = verify()
    assert (code, "ok" in text) == (0, True)
    record = read_metadata(plain_bert)
    rewrite_model(plain_bert, metadata={"hf_hub_sha": "0" * 40, "hf_hub_revision": "0" * 8})
    code, text = verify()
    assert (code, "invalid" in text) == (1, True)
    hub.add("tiny/other-words", {"config.json": b'{"model_type": "bert", "vocab_size": 9, "id2label": {}}'})
    other = hub.repos["tiny/other-words"].refs["main"]
    moved = {"hf_hub_id": "tiny/other-words", "hf_hub_sha": other, "hf_hub_revision": other[:8]}
    rewrite_model(plain_bert, metadata={**record, **moved})
    code, text = verify()
    assert (code, "does not match" in text) == (3, True)
    hub.status = 500
    code, text = verify()
    assert (code, "unreachable" in text) == (4, True)


def test_verdict_of_a_bad_value_names_its_key(plain_bert, access):
    inject_hub_metadata(plain_bert, "tiny/bert", access=access)
    rewrite_model(plain_bert, metadata={"hf_model_likes": "many"})
    verdict = verify_metadata(plain_bert, access)
    assert verdict.status is Status.INVALID
    assert "hf_model_likes" in verdict.reason


def test_truncated_response_is_no_result_for_the_file(plain_bert, hub, access, tmp_path):
    inject_hub_metadata(plain_bert, "tiny/bert", access=access, embed="none")
    hub.cut_bodies = True
    verdict = verify_metadata(plain_bert, replace(access, cache_dir=tmp_path / "empty"))
    assert verdict.status is Status.UNREACHABLE


def without_outputs(source, target, *parts):
    """Copy a model without the outputs whose names begin with a prefix. The copy is valid too."""
    model = onnx.load(source)
    kept = [output for output in model.graph.output if not output.name.startswith(parts)]
    assert 0 < len(kept) < len(model.graph.output) or parts == ("",)
    del model.graph.output[:]
    model.graph.output.extend(kept or [onnx.helper.make_empty_tensor_value_info("other")])
    if not kept:
        model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    onnx.save(model, target)
    return target


@pytest.mark.parametrize("name", ["minilm", "bert", "gpt2", "t5", "vit", "wav2vec2"])
def test_honest_exports_are_checked_in_full(exported, name):
    for path in exported(name).rglob("*.onnx"):
        verdict = verify_metadata(path)
        assert (verdict.status, verdict.unchecked) == (Status.OK, {}), path
        assert {"commit", "weight files", "embedded files", "config", "outputs", "shapes"} <= {*verdict.checked}
        assert ("parts" in verdict.checked) == (name == "t5")


@pytest.mark.parametrize(
    ("name", "missing"),
    [("gpt2", "present"), ("gpt2", "present.1"), ("gpt2", "logits"), ("t5", "present"), ("t5", "logits")],
)
def test_graph_without_an_output_that_its_task_needs_does_not_fit(exported, name, missing, tmp_path, access):
    folder = exported(name)
    taken = [path for path in sorted(folder.glob("*.onnx")) if "encoder" not in path.name]
    if missing.startswith("present"):
        taken = [path for path in taken if any("past" in spec.name for spec in read_graph(path).inputs)]
    assert taken
    for path in taken:
        record = read_record(path)
        cut = Path(shutil.copytree(folder, tmp_path / path.stem)) / path.name
        without_outputs(cut, cut, missing)
        assert verify_metadata(cut).status is Status.MISMATCH, path
        with pytest.raises(
            MismatchError, match="past key values" if "present" in missing else "needs the output logits"
        ):
            inject_hub_metadata(cut, f"{record.hub_id}@{record.hub_sha}", task=record.task, access=access)
        inject_hub_metadata(cut, record.hub_id, task=record.task, access=access, force=True)


def test_graph_that_takes_fewer_past_values_than_it_gives_does_not_fit(exported, tmp_path):
    model = onnx.load(exported("gpt2") / "model.onnx")
    for value in model.graph.input:
        value.name = "other" if value.name == "past_key_values.0.key" else value.name
    for node in model.graph.node:
        node.input[:] = ["other" if name == "past_key_values.0.key" else name for name in node.input]
    onnx.save(model, tmp_path / "model.onnx")
    assert verify_metadata(tmp_path / "model.onnx").status is Status.MISMATCH


@pytest.mark.parametrize("name", ["minilm", "bert", "vit", "wav2vec2", "t5"])
def test_graph_with_other_output_names_does_not_fit(exported, name, tmp_path):
    for path in Path(shutil.copytree(exported(name), tmp_path / "renamed")).glob("*.onnx"):
        assert verify_metadata(without_outputs(path, path, "")).status is Status.MISMATCH, path


def test_answers_need_both_ends(tmp_path):
    value = onnx.helper.make_tensor_value_info
    for given, fits in ((["start_logits"], False), (["end_logits"], False), (["start_logits", "end_logits"], True)):
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node("Cast", ["input_ids"], [name], to=1) for name in given],
            "answers",
            [value("input_ids", onnx.TensorProto.INT64, ["batch", "sequence"])],
            [value(name, onnx.TensorProto.FLOAT, ["batch", "sequence"]) for name in given],
        )
        onnx.save(onnx.helper.make_model(graph), tmp_path / "answers.onnx")
        for config in ({"model_type": "bert"}, {"model_type": "distilbert"}, {"model_type": "unknown"}, {}):
            fit = task_fit(config, "question-answering", read_graph(tmp_path / "answers.onnx"), None)
            assert (fit.mismatch is None) == fits
            assert fits or "needs the output" in fit.mismatch


@pytest.mark.parametrize(
    ("library", "config", "task", "taken", "given", "fits"),
    [
        ("transformers", {"model_type": "mgp-str"}, "feature-extraction", ["pixel_values"],
         ["char_logits", "bpe_logits", "wp_logits"], True),
        ("transformers", {"model_type": "clip"}, "feature-extraction", ["input_ids", "pixel_values"],
         ["logits_per_image", "logits_per_text", "text_embeds", "image_embeds"], True),
        ("transformers", {"model_type": "clip"}, "zero-shot-image-classification", ["input_ids", "pixel_values"],
         ["logits_per_image"], False),
        ("transformers", {"model_type": "maskformer"}, "image-segmentation", ["pixel_values"],
         ["class_queries_logits", "masks_queries_logits"], True),
        ("transformers", {"model_type": "maskformer"}, "image-segmentation", ["pixel_values"],
         ["class_queries_logits"], False),
        ("transformers", {"model_type": "yolos"}, "object-detection", ["pixel_values"], ["logits"], False),
        ("transformers", {"model_type": "sam"}, "feature-extraction", ["pixel_values"],
         ["image_embeddings", "image_positional_embeddings"], None),
        ("transformers", {"model_type": "wav2vec2"}, "audio-xvector", ["input_values"], ["logits"], False),
        ("transformers", {"model_type": "swin2sr"}, "image-to-image", ["pixel_values"], ["reconstruction"], True),
        ("transformers", {"model_type": "swin2sr"}, "image-to-image", ["pixel_values"], ["image"], False),
        ("transformers", {"model_type": "bert"}, "feature-extraction", ["input_ids"], ["sentence_embedding"], True),
        ("transformers", {"model_type": "bert"}, None, ["input_ids"], ["anything"], None),
        ("transformers", {"model_type": "bert"}, "a-task-of-a-plugin", ["input_ids"], ["anything"], None),
        ("timm", {"architecture": "resnet18"}, "image-classification", ["pixel_values"], ["logits"], True),
        ("timm", {"architecture": "resnet18"}, "image-classification", ["pixel_values"], ["y"], False),
        ("sentence_transformers", {}, "feature-extraction", ["input_ids"], ["token_embeddings"], True),
        ("sentence_transformers", {}, "feature-extraction", ["input_ids"], ["logits"], False),
        ("diffusers", {}, "text-to-image", ["sample", "timestep", "encoder_hidden_states"], ["out_sample"], True),
        ("diffusers", {}, "text-to-image", ["sample", "timestep", "encoder_hidden_states"], ["sample_out"], False),
        ("diffusers", {}, "text-to-image", ["sample"], ["latent_parameters"], True),
        ("diffusers", {}, "text-to-image", ["latent_sample"], ["sample"], True),
        ("diffusers", {}, "text-to-image", ["latent_sample"], ["y"], False),
        ("diffusers", {}, "text-to-image", ["input_ids"], ["last_hidden_state", "pooler_output"], True),
    ],
)  # fmt: skip
def test_outputs_of_each_kind_of_model_are_known(library, config, task, taken, given, fits, tmp_path):
    """True if they match, None if this is unknown."""
    value = onnx.helper.make_tensor_value_info
    nodes = [onnx.helper.make_node("Cast", [taken[0]], [name], to=1) for name in given]
    inputs = [value(name, onnx.TensorProto.FLOAT, ["batch"]) for name in taken]
    outputs = [value(name, onnx.TensorProto.FLOAT, ["batch"]) for name in given]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", inputs, outputs)), tmp_path / "g.onnx")
    fit = task_fit(config, task, read_graph(tmp_path / "g.onnx"), library)
    assert (fit.mismatch is None, set(fit.unchecked)) == (fits is not False, {"outputs"} if fits is None else set())


@pytest.fixture
def unbuildable(hub, model_folder):
    """A repo with a config of an unknown model, without readable headers of safetensors."""
    config = json.loads((model_folder("bert") / "config.json").read_text())
    tokenizer = (model_folder("bert") / "tokenizer.json").read_bytes()
    files = {"config.json": json.dumps({**config, "hidden_size": 10**12}).encode(), "tokenizer.json": tokenizer}
    return hub.add("evil/hidden", files).repo_id


def test_unchecked_parts_are_reported(plain_bert, unbuildable, access, empty_home):
    inject_hub_metadata(plain_bert, unbuildable, access=access, task="text-classification")
    verdict = verify_metadata(plain_bert, access)
    assert verdict.status is Status.OK
    assert {*verdict.unchecked} == {"shapes", "weight files"}
    assert "cannot be built" in verdict.unchecked["shapes"]
    done = optimum_cli("htp", "verify", plain_bert, **empty_home)
    assert "\n  not checked: shapes: " in done.stdout
    answer = json.loads(optimum_cli("htp", "verify", plain_bert, "--json", **empty_home).stdout)["files"][0]
    assert (answer["status"], {*answer["unchecked"]}) == ("ok", {"shapes", "weight files"})
    assert "outputs" in answer["checked"]


def test_each_skipped_check_has_a_reason(exported, published, model_folder, hub, tmp_path):
    t5 = shutil.copy(exported("t5") / "decoder_model.onnx", tmp_path)  # it contains the embedded files
    assert "encoder_model.onnx" in verify_metadata(t5).unchecked["parts"]
    bert = shutil.copy(exported("bert") / "model.onnx", tmp_path)
    rewrite_model(bert, drop="hf_task".__eq__)
    assert verify_metadata(bert).unchecked == {"outputs": "the task is unknown"}
    rewrite_model(bert, drop=lambda key: key in ("hf_hub_sha", "hf_task"))
    assert {*verify_metadata(bert).unchecked} == {"commit", "embedded files", "outputs"}
    local = tmp_path / "local.onnx"
    shutil.copy(exported("bert") / "model.onnx", local)
    inject_hub_metadata(local, model_folder("bert"), embed="none")
    assert {*verify_metadata(local).unchecked} == {"commit", "config", "shapes"}
    part = extract_module(exported("bert") / "model.onnx", "bert.pooler", tmp_path / "pooler.onnx")
    assert {"config", "outputs", "shapes"} <= {*verify_metadata(tmp_path / "pooler.onnx").unchecked}, part


def test_shapes_of_weights_are_remembered_per_token_without_failures(hub, model_folder, tmp_path, monkeypatch):
    from optimum_htp.caching import forget
    from optimum_htp.fit.blueprint import parameters_of
    from optimum_htp.hubs import HubAccess

    forget()
    hub.tokens["hf_reader"] = {"me/secret"}
    repo = hub.add("me/secret", model_folder("bert"), private=True)
    commit, files = ("me/secret", repo.refs["main"]), ["model.safetensors"]

    def shapes(token):
        return parameters_of(None, files, HubAccess(token=token, cache_dir=tmp_path), commit)

    hub.status = 503
    assert shapes("hf_reader") is None
    hub.status = None
    assert len(shapes("hf_reader")) > 10
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert shapes(False) is None
    assert shapes("hf_other") is None
