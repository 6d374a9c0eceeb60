"""Configs, tokenizers and file lists with any content: which values a loader accepts."""

from __future__ import annotations

import json

import pytest

from optimum_htp import errors
from optimum_htp.hubs.base import HubAccess
from optimum_htp.loading.preprocessors import load_preprocessor
from optimum_htp.loading.sentence_transformers import sentence_file
from optimum_htp.metadata import ExportMetadata
from optimum_htp.origin.checkpoint import fetch_checkpoint
from optimum_htp.origin.source import locate
from optimum_htp.resolve.commit_files import resolve_configs, resolve_preprocessors
from optimum_htp.resolve.configs import load_config

pytestmark = pytest.mark.usefixtures("from_the_commit")

_COUNT = iter(range(1000))
BERT = {"model_type": "bert", "hidden_size": 8}


@pytest.fixture
def published(hub):
    """Put files on the Hub; return a record of an export of them, and the repo."""

    def add(files, listed=None):
        repo = hub.add(f"hostile/model-{next(_COUNT)}", files)
        record = ExportMetadata(
            model_type="hub",
            hub_id=repo.repo_id,
            hub_sha=repo.refs["main"],
            config_files=tuple(files) if listed is None else tuple(listed),
            export_library="transformers",
        )
        return record, repo

    return add


@pytest.fixture
def access(tmp_path):
    return HubAccess(cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    "config",
    [
        b"[]",
        b"7",
        b'"text"',
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        json.dumps({**BERT, "dtype": "os.system"}).encode(),
        json.dumps({**BERT, "torch_dtype": "os.system"}).encode(),
        json.dumps({**BERT, "num_labels": 10**9}).encode(),
        json.dumps({**BERT, "text_config": {"num_labels": 1e9}}).encode(),
        json.dumps({"model_type": "qwen2", "num_hidden_layers": 10**9}).encode(),
        json.dumps({**BERT, "id2label": [1, 2]}).encode(),
        json.dumps({**BERT, "id2label": {"x": "y"}}).encode(),
        json.dumps({"model_type": ["bert"]}).encode(),
        json.dumps({"model_type": {"a": 1}}).encode(),
    ],
    ids=lambda config: repr(config[-40:]),
)
def test_config_that_cannot_be_is_a_typed_error(published, access, config):
    record, _ = published({"config.json": config})
    with pytest.raises(errors.ConfigLoadError, match=record.hub_id):
        load_config(resolve_configs(record, access), record)


@pytest.mark.parametrize("config", [b"[]", b"7", json.dumps({**BERT, "num_labels": 10**9}).encode()])
def test_config_that_cannot_be_is_not_exported(published, access, config):
    record, _ = published({"config.json": config, "model.safetensors": b"x"})
    with pytest.raises(errors.ConfigLoadError, match=r"config\.json"):
        fetch_checkpoint(locate(record.hub_id, None, access), access, None)


@pytest.mark.parametrize("content", [b"[]", b"7", b"{}", b'{"weight_map": {"a": 1}}', b"[" * 100_000])
@pytest.mark.parametrize("name", ["model.safetensors.index.json", "tokenizer_config.json", "preprocessor_config.json"])
def test_other_files_may_have_any_content(published, access, name, content):
    record, _ = published({"config.json": json.dumps(BERT).encode(), name: content})
    checkpoint = fetch_checkpoint(locate(record.hub_id, None, access), access, None)
    assert checkpoint.config == BERT
    assert isinstance(checkpoint.preprocessors, tuple)


@pytest.mark.parametrize("content", [b"[]", b'{"model": 7}', b"[" * 100_000, b"\xff", b'{"version": "1.0"}'])
def test_damaged_tokenizer_is_typed(published, access, content):
    files = {
        "config.json": json.dumps(BERT).encode(),
        "tokenizer.json": content,
        "tokenizer_config.json": b'{"tokenizer_class": "PreTrainedTokenizerFast"}',
    }
    record, _ = published(files)
    folder = resolve_preprocessors(record, access).folder
    with pytest.raises(errors.PreprocessorLoadError, match=record.hub_id):
        load_preprocessor("AutoTokenizer", folder, record)


def test_only_files_that_loaders_read_are_downloaded(published, hub, access):
    body = json.dumps(BERT).encode()
    names = ["config.json", "vocab.txt", "pytorch_model.bin", "evil.pt", "model.safetensors", "a/b.json", "evil.py"]
    record, _ = published(dict.fromkeys(names, body))
    with hub.recorded() as requests:
        resolve_configs(record, access)
        resolve_preprocessors(record, access)
    assert {request.path.rpartition("/")[2] for request in requests} == {"config.json", "vocab.txt"}
    with hub.recorded() as requests:
        resolve_configs(record, access, with_code=True)
        resolve_preprocessors(record, access, with_code=True)
    assert {request.path.rpartition("/")[2] for request in requests} == {"evil.py"}


def test_weights_of_a_module_are_never_a_pickle(published, hub, access, tmp_path):
    import onnx

    files = dict.fromkeys(["modules.json", "2_Dense/config.json", "2_Dense/pytorch_model.bin"], b"{}")
    record, _ = published(files)
    value = onnx.helper.make_tensor_value_info("x", 1, [1])
    model = onnx.helper.make_model(
        onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value], [])
    )
    onnx.helper.set_model_props(model, record.to_properties())
    (tmp_path / "out").mkdir()
    onnx.save(model, tmp_path / "out" / "model.onnx")
    reason = r"has no 2_Dense/model\.safetensors\. .* a pickle .*SentenceTransformer"
    with hub.recorded() as requests, pytest.raises(errors.ConfigLoadError, match=reason):
        sentence_file(tmp_path / "out", "2_Dense/pytorch_model.bin", access)
    assert requests == []
