"""HTPExporter: downloads, records, and options."""

from __future__ import annotations

import json

import onnx
import pytest

from optimum_htp.errors import (
    ConfigFileNotFoundError,
    InvalidModelReferenceError,
    OptimumHTPError,
)
from optimum_htp.onnxfile import read_header
from tests.support import models
from tests.support.exports import files_in, record_of


def test_record_contains_the_origin_of_the_model(export, bert, tmp_path):
    result = export("tiny/bert", tmp_path / "out")
    record = record_of(tmp_path / "out" / "model.onnx")
    commit = bert.refs["main"]
    assert result.metadata == record
    assert result.files == (tmp_path / "out" / "model.onnx",)
    assert (record.model_type, record.hub_id, record.hub_sha) == ("hub", "tiny/bert", commit)
    assert (record.hub_revision, record.hub_ref) == (commit[:8], None)
    assert record.task == result.task == "text-classification"
    assert (record.model_class, record.export_library) == ("BertForSequenceClassification", "transformers")
    assert record.preprocessors == ("AutoTokenizer",)
    assert record.config_files == tuple(sorted({*bert.commits[commit]} - {"README.md", "model.safetensors"}))
    assert {"config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"} <= {*record.config_files}
    assert (record.pipeline_tag, record.license, record.private, record.gated) == (
        "text-classification",
        "mit",
        False,
        False,
    )
    assert (record.model_downloads, record.model_likes) == (1234, 56)
    header = read_header(tmp_path / "out" / "model.onnx")
    assert header.producer_name == "optimum-htp"
    assert record.original_producer.startswith("pytorch ")
    assert header.metadata["model_author"] == "tiny"
    assert header.metadata["model_license"] == "mit"
    assert header.domain
    assert commit in header.doc_string
    onnx.checker.check_model(str(tmp_path / "out" / "model.onnx"), full_check=True)


def test_all_files_come_from_one_commit_while_main_moves(export, hub, model_folder, tmp_path):
    first = models.bert(tmp_path / "first")
    repo = hub.add("tiny/moving", first)
    before = repo.refs["main"]
    other = dict(repo.commits[before])
    other["vocab.txt"] = other["vocab.txt"].replace(b"hello", b"MOVED")
    other["tokenizer.json"] = other["tokenizer.json"].replace(b'"hello"', b'"MOVED"')

    def move(method, path):
        if "/resolve/" in path and repo.refs["main"] == before:
            repo.commit(other)

    hub.before_answer = move
    export("tiny/moving", tmp_path / "out", with_config=True)
    assert repo.refs["main"] != before
    assert record_of(tmp_path / "out" / "model.onnx").hub_sha == before
    assert "hello" in (tmp_path / "out" / "vocab.txt").read_text()
    assert "MOVED" not in (tmp_path / "out" / "tokenizer.json").read_text()


def test_configs_of_an_earlier_commit_are_removed_by_a_new_export(export, hub, tmp_path):
    """The preprocessor would not fit the new model: its labels and words differ."""
    first = models.bert(tmp_path / "first")
    (first / "generation_config.json").write_text("{}")
    repo = hub.add("tiny/moved-on", first)
    out, mine = tmp_path / "out", tmp_path / "mine"
    for folder in (out, mine):
        export("tiny/moved-on", folder, with_config=True)
    own = {**json.loads((mine / "config.json").read_text()), "id2label": {"0": "mine", "1": "b", "2": "c"}}
    (mine / "config.json").write_text(json.dumps(own))
    files = {name: body.replace(b"LABEL ", b"OTHER ") for name, body in repo.commits[repo.refs["main"]].items()}
    for name in ("vocab.txt", "tokenizer.json"):
        files[name] = files[name].replace(b"hello", b"MOVED")
    del files["generation_config.json"]
    repo.commit(files)
    for folder in (out, mine):
        export("tiny/moved-on", folder)
        assert "MOVED" in (folder / "tokenizer.json").read_text()
        assert not (folder / "generation_config.json").exists()
    assert (out / "config.json").read_bytes() == files["config.json"]
    assert json.loads((mine / "config.json").read_text()) == own  # an edited file is kept


@pytest.mark.parametrize("ref", ["v1", "refs/pr/7", "a-branch"])
def test_named_revision_is_recorded_and_pinned(export, bert, tmp_path, ref):
    old = bert.refs["main"]
    bert.refs[ref] = old
    export(f"tiny/bert@{ref}", tmp_path / "out")
    record = record_of(tmp_path / "out" / "model.onnx")
    assert (record.hub_ref, record.hub_sha) == (ref, old)


def test_only_the_weights_that_transformers_loads_are_fetched(export, hub, model_folder, tmp_path):
    repo = hub.add("tiny/all-formats", model_folder("bert"), pipeline_tag="text-classification")
    siblings = ("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "model.gguf", "onnx/model.onnx", "a.png")
    repo.commit({**repo.commits[repo.refs["main"]], **dict.fromkeys(siblings, b"not for you")})
    with hub.recorded() as requests:
        export("tiny/all-formats", tmp_path / "out")
    fetched = {request.path.rpartition("/")[2] for request in requests if "/resolve/" in request.path}
    assert "model.safetensors" in fetched
    assert not {name.rpartition("/")[2] for name in siblings} & fetched
    assert len(requests) <= 2 * len(fetched) + 3


def test_sharded_weights_are_fetched_by_their_index(export, hub, tmp_path):
    from transformers import BertForSequenceClassification

    folder = models.bert(tmp_path / "model")
    model = BertForSequenceClassification.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    hub.add("tiny/sharded", folder, pipeline_tag="text-classification")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    export("tiny/sharded", tmp_path / "out")
    assert files_in(tmp_path / "out") == ["model.onnx"]


def test_local_model_keeps_adjacent_configs(export, model_folder, hub, tmp_path):
    with hub.recorded() as requests:
        result = export(model_folder("bert"), tmp_path / "out")
    assert requests == []
    configs = {path.name for path in model_folder("bert").iterdir()} - {"model.safetensors"}
    assert files_in(tmp_path / "out") == sorted({*configs, "model.onnx"})
    assert (result.metadata.model_type, result.metadata.hub_id) == ("local", None)
    original, copied = model_folder("bert") / "config.json", tmp_path / "out" / "config.json"
    assert original.read_bytes() == copied.read_bytes()


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("bert", "text-classification"),
        ("gpt2", "text-generation-with-past"),
        ("t5", "text2text-generation-with-past"),
        ("vit", "image-classification"),
        ("wav2vec2", "automatic-speech-recognition"),
    ],
)
def test_task_of_a_local_model_is_inferred(model_folder, name, task):
    from optimum_htp.libraries.tasks import infer_task, with_past

    config = json.loads((model_folder(name) / "config.json").read_text())
    assert with_past(infer_task(config, "transformers", None), config, "transformers") == task


def test_given_task_counts(export, bert, tmp_path):
    result = export("tiny/bert", tmp_path / "out", task="feature-extraction")
    assert result.task == result.metadata.task == "feature-extraction"
    assert result.metadata.model_class == "BertModel"


def test_two_revisions_have_to_agree(export, bert, tmp_path):
    with pytest.raises(InvalidModelReferenceError):
        export("tiny/bert@main", tmp_path / "out", revision="v1")


def test_folder_without_a_model_is_refused(export, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigFileNotFoundError, match=r"config\.json"):
        export(tmp_path / "empty", tmp_path / "out")


def test_token_reaches_the_hub_and_nothing_else(export, hub, model_folder, tmp_path, caplog):
    secret = "hf_thisIsVerySecret"
    hub.add("tiny/secret", model_folder("bert"), private=True, pipeline_tag="text-classification")
    hub.tokens[secret] = {"tiny/secret"}
    with hub.recorded() as requests, caplog.at_level("DEBUG"):
        export("tiny/secret", tmp_path / "out", token=secret, with_config=True)
    assert {(request.origin, request.token) for request in requests} == {("hub", secret), ("cdn", None)}
    assert all(secret.encode() not in path.read_bytes() for path in (tmp_path / "out").iterdir())
    assert secret not in caplog.text
    assert record_of(tmp_path / "out" / "model.onnx").private is True


def test_half_precision_and_opset_are_passed_on(export, bert, tmp_path):
    export("tiny/bert", tmp_path / "out", dtype="fp16", opset=17)
    model = onnx.load(tmp_path / "out" / "model.onnx")
    assert model.opset_import[0].version == 17
    assert onnx.TensorProto.FLOAT16 in {tensor.data_type for tensor in model.graph.initializer}


def test_option_that_optimum_does_not_have_is_refused(export, bert, tmp_path):
    with pytest.raises(TypeError, match="no_such_option"):
        export("tiny/bert", tmp_path / "out", no_such_option=1)


def test_every_option_of_optimums_parser_is_understood():
    from argparse import ArgumentParser

    from optimum.commands.export.onnx import parse_args_onnx

    from optimum_htp.export.engines.optimum import OptimumEngine

    parser = ArgumentParser()
    parse_args_onnx(parser)
    ours = {"help", "model", "output", "task", "cache_dir", "library_name"}
    options = {action.dest: action.default for action in parser._actions if action.dest not in ours}
    translated = OptimumEngine().options({**options, "no_constant_folding": True, "variant": "v"})
    assert translated["do_constant_folding"] is False
    assert translated["_variant"] == "v"
    assert translated["batch_size"] == options["batch_size"]


def test_task_is_recorded_by_the_name_that_optimum_keeps(export, bert, tmp_path):
    result = export("tiny/bert", tmp_path / "out", task="sequence-classification")
    assert result.task == result.metadata.task == "text-classification"


def test_contradictory_download_options_are_rejected(export, bert, tmp_path):
    with pytest.raises(OptimumHTPError, match="contradict"):
        export("tiny/bert", tmp_path / "out", force_download=True, local_files_only=True)


def test_invalid_date_is_rejected(export, bert, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "99999999999999999999")
    with pytest.raises(OptimumHTPError, match="SOURCE_DATE_EPOCH"):
        export("tiny/bert", tmp_path / "out")
