"""The record and its form as metadata properties."""

from __future__ import annotations

import dataclasses
import json

import onnx
import pytest

from optimum_htp.errors import MetadataError
from optimum_htp.metadata import ExportMetadata, read_record, record

SHA = "0123456789abcdef0123456789abcdef01234567"
RECORD = ExportMetadata(
    model_type="hub",
    hub_id="org/model",
    hub_sha=SHA,
    hub_revision=SHA[:8],
    export_version="0.1.0",
    export_timestamp="2026-01-01T00:00:00Z",
    task="text2text-generation-with-past",
    onnx_files=("encoder_model.onnx", "decoder_model.onnx"),
    onnx_file="encoder_model.onnx",
    preprocessors=("AutoProcessor", "AutoTokenizer"),
    config_files=("config.json", "tokenizer.json"),
    model_downloads=12,
    private=False,
    gated=True,
)


def test_record_survives_the_round_trip():
    assert ExportMetadata.from_properties(RECORD.to_properties()) == RECORD


def test_every_value_is_text_and_every_key_ours():
    properties = RECORD.to_properties()
    assert all(isinstance(value, str) for value in properties.values())
    assert all(key.startswith("hf_") for key in properties)
    assert properties["hf_gated"] == "true"
    assert properties["hf_config_files"] == '["config.json", "tokenizer.json"]'


def test_file_without_a_record_has_none():
    assert ExportMetadata.from_properties({"mine": "value"}) is None


def test_files_of_older_tools_are_read():
    record = ExportMetadata.from_properties(
        {
            "hf_hub_id": "bert-base-uncased",
            "hf_hub_revision": "86b5e093",
            "hf_model_type": "hub",
            "hf_downloads": "100",
            "hf_likes": "7",
            "hf_private": "False",
            "hf_gated": "manual",
        }
    )
    assert record is not None
    assert (record.hub_sha, record.hub_revision, record.metadata_version) == (None, "86b5e093", None)
    assert (record.model_downloads, record.model_likes, record.private, record.gated) == (100, 7, False, True)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hf_hub_sha", "86b5e093"),
        ("hf_hub_sha", "Z" * 40),
        ("hf_hub_id", "../../etc/passwd"),
        ("hf_hub_id", "a" * 97),
        ("hf_hub_id", "org/-name"),
        ("hf_hub_id", "org/a--b"),
        ("hf_hub_provider", "../acme"),
        ("hf_hub_id", "a/b/c"),
        ("hf_model_type", "remote"),
        ("hf_onnx_files", '["../outside.onnx"]'),
        ("hf_onnx_files", '["/etc/passwd"]'),
        ("hf_onnx_files", '["C:\\\\x"]'),
        ("hf_onnx_files", '{"a": 1}'),
        ("hf_onnx_files", "[" * 100_000),
        ("hf_config_files", '["a/../../b"]'),
        ("hf_onnx_file", ".."),
        ("hf_preprocessors", "os.system"),
        ("hf_model_downloads", "many"),
        ("hf_model_downloads", "9" * 5000),
        ("hf_private", "maybe"),
        ("hf_hub_revision", "main; rm -rf"),
        ("hf_hub_revision", "89abcdef"),
        ("hf_onnx_file", "other.onnx"),
        ("hf_task", "\ud800"),
        ("hf_config_files", json.dumps([f"{number}.json" for number in range(2000)])),
        ("hf_config_files", json.dumps(["x" * (8 << 20)])),
    ],
)
def test_hostile_values_are_refused_by_key(key, value):
    with pytest.raises(MetadataError, match=key) as caught:
        ExportMetadata.from_properties({**RECORD.to_properties(), key: value})
    assert caught.value.key == key


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_downloads", -1),
        ("model_downloads", 1.5),
        ("model_likes", True),
        ("private", "yes"),
        ("gated", 3),
        ("preprocessors", ("AutoEverything",)),
        ("config_files", tuple(f"{number}.json" for number in range(2000))),
        ("license", "\ud800"),
        ("export_timestamp", "yesterday"),
    ],
)
def test_unreadable_properties_are_not_written(field, value, caplog):
    properties = dataclasses.replace(RECORD, **{field: value}).to_properties()
    assert f"hf_{field}" not in properties
    assert f"hf_{field}" in caplog.text
    assert ExportMetadata.from_properties(properties).hub_sha == SHA


def test_names_that_a_list_cannot_hold_are_left_out_one_by_one(caplog):
    names = ("config.json", "sp:v2.model", "../x.json", "\ud800.json", "tokenizer.json")
    properties = dataclasses.replace(RECORD, config_files=names).to_properties()
    assert ExportMetadata.from_properties(properties).config_files == ("config.json", "tokenizer.json")
    assert "sp:v2.model" in caplog.text


@pytest.mark.parametrize(("field", "value"), [("hub_sha", "main"), ("hub_id", "../x"), ("onnx_files", ("../x",))])
def test_record_without_a_required_fact_is_not_written(field, value):
    with pytest.raises(MetadataError) as caught:
        dataclasses.replace(RECORD, **{field: value}).to_properties()
    assert caught.value.key == f"hf_{field}"


def test_hub_record_without_a_commit_is_refused():
    with pytest.raises(MetadataError, match="hf_hub_sha"):
        ExportMetadata.from_properties({"hf_model_type": "hub", "hf_hub_id": "org/model"})


def test_files_of_one_export_belong_together_and_others_do_not():
    assert RECORD.belongs_with(dataclasses.replace(RECORD, onnx_file="decoder_model.onnx"))
    assert not RECORD.belongs_with(dataclasses.replace(RECORD, export_timestamp="2026-01-02T00:00:00Z"))
    assert not RECORD.belongs_with(dataclasses.replace(RECORD, hub_sha="f" * 40))


def test_record_of_a_file_that_has_settled_is_read_once(tmp_path, monkeypatch):
    def written(path, **changes):
        model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []))
        onnx.helper.set_model_props(model, dataclasses.replace(RECORD, **changes).to_properties())
        onnx.save(model, path)
        return path

    path = written(tmp_path / "model.onnx")
    assert read_record(path) is not read_record(path)  # a change within a clock tick might not be visible
    monkeypatch.setattr(record, "_SETTLED", 0)
    assert read_record(path) is read_record(path)
    written(path, hub_sha="a" * 40, hub_revision="a" * 8)
    assert read_record(path).hub_sha == "a" * 40
    written(tmp_path / "other.onnx", hub_sha="b" * 40, hub_revision="b" * 8).replace(path)
    assert read_record(path).hub_sha == "b" * 40
