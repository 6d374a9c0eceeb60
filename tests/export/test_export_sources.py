"""Sources of an exported model: memory, the cache, or an unreachable Hub."""

from __future__ import annotations

import json

import pytest

from optimum_htp.errors import (
    ChangedCacheError,
    ExportError,
    HubUnreachableError,
    InvalidModelReferenceError,
    ModelNotFoundError,
    VerificationError,
)
from tests.support import models
from tests.support.exports import files_in


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


def test_model_in_memory_without_origin_is_local(export, hub, tmp_path):
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
    assert export(folder, tmp_path / "local").metadata.model_type == "local"  # with another cache
    result = export(folder, tmp_path / "out", cache_dir=tmp_path / "elsewhere")
    assert (result.metadata.hub_id, result.metadata.hub_sha) == ("tiny/bert", bert.refs["main"])
    assert result.metadata.config_files is None  # the cache may be incomplete


def test_verify_hub_reads_back_and_resolves(export, bert, hub, tmp_path):
    with hub.recorded() as requests:
        export("tiny/bert", tmp_path / "out", verify_hub=True)
    asked = [request.path for request in requests if request.path.startswith("/api/models/tiny/bert")]
    assert len(asked) == 3
    assert "/tree/" in asked[-1]  # it has the digests of the embedded files
    assert sum(request.path.endswith("config.json") and request.method == "GET" for request in requests) >= 2


def test_verify_hub_fails_without_confirmation(export, bert, hub, model_folder, tmp_path):
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


def test_verify_hub_fails_if_the_commit_disappears(export, hub, tmp_path):
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


def test_unknown_model_is_not_guessed_without_the_hub(export, hub, tmp_path):
    hub.status = 503
    with pytest.raises(HubUnreachableError, match="never/seen"):
        export("never/seen", tmp_path / "out")


def test_name_that_is_neither_folder_nor_on_the_hub(export, tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"models/my-bert is neither a local folder"):
        export("models/my-bert", tmp_path / "out")


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


def test_non_model_is_rejected(export, tmp_path):
    import torch

    with pytest.raises(ExportError, match="Linear has no config"):
        export(model=torch.nn.Linear(2, 2), output_path=tmp_path / "out")


@pytest.mark.parametrize("name", ["~no-such-user/model", "a" * 300, "null\0character"])
def test_names_invalid_for_the_file_system_are_rejected(export, tmp_path, name):
    with pytest.raises((ModelNotFoundError, InvalidModelReferenceError)):
        export(name, tmp_path / "out")
