"""HTPExporter: what it fetches, what it writes, and what it leaves alone when it fails."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import onnx
import pytest

from optimum_htp import HTPExporter
from optimum_htp.errors import (
    ChangedCacheError,
    ConfigFileNotFoundError,
    DownloadError,
    ExportError,
    HubUnreachableError,
    InvalidModelReferenceError,
    ModelNotFoundError,
    OptimumHTPError,
    VerificationError,
)
from optimum_htp.metadata import ExportMetadata
from optimum_htp.onnxfile import external_files, read_header, read_metadata
from tests.support import models


def record_of(path: Path) -> ExportMetadata:
    record = ExportMetadata.from_properties(read_metadata(path))
    assert record is not None
    return record


@pytest.fixture
def export(tmp_path):
    """Export with a cache of the test's own."""

    def run(*args, **kwargs):
        kwargs.setdefault("cache_dir", tmp_path / "cache")
        kwargs.setdefault("do_validation", False)
        return HTPExporter().export(*args, **kwargs)

    return run


@pytest.fixture
def bert(published, hub):
    published("bert")
    return hub.repos["tiny/bert"]


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_record_says_where_the_model_came_from(export, bert, tmp_path):
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


def test_everything_comes_from_one_commit_though_main_moves_meanwhile(export, hub, model_folder, tmp_path):
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


def test_configs_of_the_commit_before_do_not_stay_beside_a_new_export(export, hub, tmp_path):
    """They would be used for the new file's model: other labels, other words."""
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
    assert json.loads((mine / "config.json").read_text()) == own  # what somebody has edited stays


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


def test_local_model_keeps_its_configs_beside(export, model_folder, hub, tmp_path):
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


@pytest.mark.parametrize("name", ["bert.onnx", "with spaces & ünicode.onnx", "a@b.onnx"])
def test_output_may_name_a_file(export, bert, tmp_path, name):
    result = export("tiny/bert", tmp_path / "deep" / "er" / name)
    assert result.files == (tmp_path / "deep" / "er" / name,)
    assert files_in(tmp_path / "deep") == [f"er/{name}"]


def test_named_file_keeps_its_external_data_under_its_name(export, bert, tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_ONNX_EXTERNAL_DATA", "1")
    export("tiny/bert", tmp_path / "out" / "a.onnx")
    export("tiny/bert", tmp_path / "out" / "b.onnx")
    assert files_in(tmp_path / "out") == ["a.onnx", "a.onnx_data", "b.onnx", "b.onnx_data"]
    assert external_files(tmp_path / "out" / "b.onnx") == ("b.onnx_data",)
    onnx.checker.check_model(str(tmp_path / "out" / "b.onnx"))


def test_several_files_cannot_have_one_name(export, published, tmp_path):
    published("t5")
    with pytest.raises(ExportError, match=r"4 files.*name an output folder"):
        export("tiny/t5", tmp_path / "out" / "t5.onnx")
    assert files_in(tmp_path) == [name for name in files_in(tmp_path) if name.startswith("cache/")]
    assert not (tmp_path / "out").exists()


def test_every_file_of_a_model_names_its_siblings(exported):
    folder = exported("t5")
    names = tuple(files_in(folder))
    assert len(names) == 4
    records = [record_of(folder / name) for name in names]
    assert {record.onnx_files for record in records} == {names}
    assert tuple(record.onnx_file for record in records) == names
    assert all(record.belongs_with(records[0]) for record in records)


def test_failed_export_leaves_what_was_there(export, bert, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "model.onnx").write_bytes(b"the one from before")
    with pytest.raises(ExportError, match=r"tiny/bert.*object-detection"):
        export("tiny/bert", output, task="object-detection", engine="optimum")
    assert files_in(output) == ["model.onnx"]
    assert (output / "model.onnx").read_bytes() == b"the one from before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "out"]


def test_export_into_a_folder_replaces_its_own_files_only(export, bert, tmp_path):
    output = tmp_path / "out"
    (output / "sub").mkdir(parents=True)
    for name in ("model.onnx", "notes.txt", "sub/other.onnx"):
        (output / name).write_bytes(b"before")
    export("tiny/bert", output)
    assert files_in(output) == ["model.onnx", "notes.txt", "sub/other.onnx"]
    assert (output / "notes.txt").read_bytes() == (output / "sub" / "other.onnx").read_bytes() == b"before"
    assert record_of(output / "model.onnx").hub_id == "tiny/bert"


def test_local_model_does_not_overwrite_the_config_of_a_neighbour(export, model_folder, tmp_path):
    export(model_folder("bert"), tmp_path / "out" / "bert.onnx")
    config = (tmp_path / "out" / "config.json").read_bytes()
    with pytest.raises(ExportError, match=r"another model"):
        export(model_folder("vit"), tmp_path / "out" / "vit.onnx")
    assert (tmp_path / "out" / "config.json").read_bytes() == config
    assert not (tmp_path / "out" / "vit.onnx").exists()


def test_with_config_keeps_the_configs_of_a_hub_model(export, bert, tmp_path):
    result = export("tiny/bert", tmp_path / "out", with_config=True)
    assert files_in(tmp_path / "out") == [
        "model.onnx" if n is None else n for n in sorted({*result.metadata.config_files, "model.onnx"})
    ]


def test_model_in_memory_is_known_by_its_config(export, bert, tmp_path):
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained("tiny/bert")
    result = export(model=model, output_path=tmp_path / "out")
    assert (result.metadata.hub_id, result.metadata.hub_sha) == ("tiny/bert", bert.refs["main"])
    assert result.task == "text-classification"
    assert result.metadata.preprocessors == ("AutoTokenizer",)
    assert files_in(tmp_path / "out") == ["model.onnx"]
    assert model.config._name_or_path == "tiny/bert"


def test_model_in_memory_whose_config_was_changed_is_local(export, bert, tmp_path):
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained("tiny/bert", num_labels=7, ignore_mismatched_sizes=True)
    result = export(model=model, output_path=tmp_path / "out")
    assert (result.metadata.model_type, result.metadata.base_model) == ("local", "tiny/bert")
    assert len(json.loads((tmp_path / "out" / "config.json").read_text())["id2label"]) == 7
    assert (tmp_path / "out" / "vocab.txt").is_file()


def test_model_in_memory_from_nowhere_is_local(export, hub, tmp_path):
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    with hub.recorded() as requests:
        result = export(model=BertModel(config), output_path=tmp_path / "out", task="feature-extraction")
    assert requests == []
    assert result.metadata.model_type == "local"
    assert files_in(tmp_path / "out") == ["config.json", "model.onnx"]


def test_path_in_the_cache_is_exported_as_the_hub_model(export, bert, tmp_path):
    from huggingface_hub import snapshot_download

    folder = snapshot_download("tiny/bert", cache_dir=tmp_path / "elsewhere")
    assert export(folder, tmp_path / "local").metadata.model_type == "local"  # another cache is in use
    result = export(folder, tmp_path / "out", cache_dir=tmp_path / "elsewhere")
    assert (result.metadata.hub_id, result.metadata.hub_sha) == ("tiny/bert", bert.refs["main"])
    assert result.metadata.config_files is None  # the cache may not have all of them


def test_verify_hub_reads_back_and_resolves(export, bert, hub, tmp_path):
    with hub.recorded() as requests:
        export("tiny/bert", tmp_path / "out", verify_hub=True)
    asked = [request.path for request in requests if request.path.startswith("/api/models/tiny/bert")]
    assert len(asked) == 3
    assert "/tree/" in asked[-1]  # which has the digests of what is embedded
    assert sum(request.path.endswith("config.json") and request.method == "GET" for request in requests) >= 2


def test_verify_hub_fails_where_the_hub_cannot_confirm(export, bert, hub, model_folder, tmp_path):
    export("tiny/bert", tmp_path / "first")
    hub.status = 500
    with pytest.raises(VerificationError, match="tiny/bert"):
        export("tiny/bert", tmp_path / "out", verify_hub=True)
    with pytest.raises(VerificationError, match="local model"):
        export(model_folder("bert"), tmp_path / "out", verify_hub=True)
    assert not (tmp_path / "out").exists()


def test_file_that_was_changed_in_the_cache_is_not_exported_as_the_commits(export, bert, tmp_path, access):
    export("tiny/bert", tmp_path / "first", cache_dir=access.cache_dir)
    (cached,) = access.cache_dir.rglob("snapshots/*/tokenizer_config.json")
    content = cached.read_bytes()
    cached.write_bytes(content + b" ")
    for options in ({}, {"verify_hub": True}, {"local_files_only": True}):
        with pytest.raises(ChangedCacheError, match=r"tokenizer_config\.json .* --force-download"):
            export("tiny/bert", tmp_path / "out", cache_dir=access.cache_dir, **options)
    assert not (tmp_path / "out").exists()
    export("tiny/bert", tmp_path / "out", cache_dir=access.cache_dir, force_download=True)
    assert cached.read_bytes() == content


def test_verify_hub_fails_where_the_commit_vanishes_meanwhile(export, hub, tmp_path):
    repo = hub.add("tiny/vanishing", models.bert(tmp_path / "model"))

    def vanish(method, path):
        if path.endswith("/model.safetensors") and method == "GET":
            hub.renamed.clear()
            repo.private = True

    hub.before_answer = vanish
    with pytest.raises((VerificationError, ModelNotFoundError)):
        export("tiny/vanishing", tmp_path / "out", verify_hub=True)
    assert not (tmp_path / "out").exists()


def test_cached_model_is_exported_while_the_hub_is_away(export, bert, hub, tmp_path):
    commit = bert.refs["main"]
    export("tiny/bert", tmp_path / "first")
    hub.status = 503
    result = export("tiny/bert", tmp_path / "out")
    assert (result.metadata.hub_id, result.metadata.hub_sha) == ("tiny/bert", commit)
    assert result.metadata.config_files is None
    with hub.recorded() as requests:
        export("tiny/bert", tmp_path / "local", local_files_only=True)
    assert requests == []


def test_unknown_model_is_not_guessed_at_while_the_hub_is_away(export, hub, tmp_path):
    hub.status = 503
    with pytest.raises(HubUnreachableError, match="never/seen"):
        export("never/seen", tmp_path / "out")


def test_name_that_is_neither_folder_nor_on_the_hub(export, tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"models/my-bert is not a folder here"):
        export("models/my-bert", tmp_path / "out")


def test_two_revisions_have_to_agree(export, bert, tmp_path):
    with pytest.raises(InvalidModelReferenceError):
        export("tiny/bert@main", tmp_path / "out", revision="v1")


def test_folder_without_a_model_is_refused(export, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigFileNotFoundError, match=r"config\.json"):
        export(tmp_path / "empty", tmp_path / "out")


def test_output_that_is_a_file_is_refused(export, bert, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ExportError, match="is a file"):
        export("tiny/bert", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "a file"


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


def test_optimizing_is_passed_on_and_the_result_stamped(export, bert, tmp_path):
    export("tiny/bert", tmp_path / "out", optimize="O2")
    assert record_of(tmp_path / "out" / "model.onnx").hub_id == "tiny/bert"
    assert files_in(tmp_path / "out") == ["model.onnx"]


def test_option_that_optimum_does_not_have_is_refused(export, bert, tmp_path):
    with pytest.raises(TypeError, match="no_such_option"):
        export("tiny/bert", tmp_path / "out", no_such_option=1)


def test_every_option_of_optimums_parser_is_understood():
    from argparse import ArgumentParser

    from optimum.commands.export.onnx import parse_args_onnx

    from optimum_htp.export.engines.optimum import optimum_options

    parser = ArgumentParser()
    parse_args_onnx(parser)
    ours = {"help", "model", "output", "task", "cache_dir", "library_name"}
    options = {action.dest: action.default for action in parser._actions if action.dest not in ours}
    translated = optimum_options({**options, "no_constant_folding": True, "variant": "v"})
    assert translated["do_constant_folding"] is False
    assert translated["_variant"] == "v"
    assert translated["batch_size"] == options["batch_size"]


def test_tokenizer_file_that_is_a_link_is_copied_as_a_file(export, model_folder, tmp_path):
    folder = tmp_path / "linked"
    folder.mkdir()
    for path in model_folder("bert").iterdir():
        (folder / path.name).symlink_to(path)
    export(folder, tmp_path / "out")
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())
    shutil.rmtree(folder)
    assert "hello" in (tmp_path / "out" / "vocab.txt").read_text()


def test_second_local_model_does_not_take_over_the_first_ones_configs(export, model_folder, tmp_path):
    export(models.bert(tmp_path / "three", labels=3), tmp_path / "out" / "a.onnx")
    for output in (tmp_path / "out", tmp_path / "out" / "b.onnx"):
        with pytest.raises(ExportError, match=r"another model \(a\.onnx\) with a config\.json"):
            export(models.bert(tmp_path / "five", labels=5), output)
    other = models.bert(tmp_path / "words", labels=3)
    (other / "vocab.txt").write_text((other / "vocab.txt").read_text().replace("cat", "cow"))
    with pytest.raises(ExportError, match=r"a vocab\.txt of its own"):
        export(other, tmp_path / "out" / "b.onnx")
    assert len(json.loads((tmp_path / "out" / "config.json").read_text())["id2label"]) == 3


def test_task_is_recorded_by_the_name_that_optimum_keeps(export, bert, tmp_path):
    result = export("tiny/bert", tmp_path / "out", task="sequence-classification")
    assert result.task == result.metadata.task == "text-classification"


def test_model_card_that_cannot_be_read_is_left_out(export, hub, model_folder, tmp_path):
    repo = hub.add("tiny/bad-card", model_folder("bert"), pipeline_tag="text-classification")
    repo.commit({**repo.commits[repo.refs["main"]], "README.md": b"---\nlicense: [\n---\n"})
    assert export("tiny/bad-card", tmp_path / "out").metadata.license is None


def test_revision_of_a_model_in_memory_is_refused(export, model_folder, tmp_path):
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(model_folder("bert"))
    with pytest.raises(TypeError, match="revision"):
        export(model=model, output_path=tmp_path / "out", revision="v1")


def test_model_in_memory_with_another_head_is_local(export, bert, tmp_path):
    from transformers import AutoModel, AutoModelForMaskedLM

    headed = export(model=AutoModelForMaskedLM.from_pretrained("tiny/bert"), output_path=tmp_path / "headed")
    assert (headed.metadata.model_type, headed.metadata.base_model) == ("local", "tiny/bert")
    bare = export(model=AutoModel.from_pretrained("tiny/bert"), output_path=tmp_path / "bare")
    assert (bare.metadata.model_type, bare.task) == ("hub", "feature-extraction")


def test_what_is_no_model_is_refused(export, tmp_path):
    import torch

    with pytest.raises(ExportError, match="Linear has no config"):
        export(model=torch.nn.Linear(2, 2), output_path=tmp_path / "out")


@pytest.mark.parametrize("name", ["~no-such-user/model", "a" * 300, "null\0character"])
def test_names_that_trip_the_file_system_are_refused(export, tmp_path, name):
    with pytest.raises((ModelNotFoundError, InvalidModelReferenceError)):
        export(name, tmp_path / "out")


def test_cache_that_cannot_be_written_is_named(export, bert, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match=r"tiny/bert.*cache"):
        export("tiny/bert", tmp_path / "out", cache_dir=tmp_path / "file" / "cache")


def test_contradicting_downloads_are_refused(export, bert, tmp_path):
    with pytest.raises(OptimumHTPError, match="contradict"):
        export("tiny/bert", tmp_path / "out", force_download=True, local_files_only=True)


def test_date_that_is_none_is_refused(export, bert, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "99999999999999999999")
    with pytest.raises(OptimumHTPError, match="SOURCE_DATE_EPOCH"):
        export("tiny/bert", tmp_path / "out")


def test_warnings_of_an_export_name_the_folder_of_the_user(published, tmp_path, caplog):
    """Optimum warns of outputs that differ by more than `atol` (below zero: all), and names the folder."""
    repo_id = published("bert").repo_id
    logger = logging.getLogger("optimum.exporters.onnx.convert")  # Optimum's root logger may not propagate
    logger.addHandler(caplog.handler)
    try:
        HTPExporter().export(repo_id, tmp_path / "out", atol=-1.0)
    finally:
        logger.removeHandler(caplog.handler)
    assert f"saved at: {(tmp_path / 'out').as_posix()}" in caplog.text
    assert "/exported" not in caplog.text
