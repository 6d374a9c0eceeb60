"""ONNX's standard keys `model_author` and `model_license`: a stamp sets, replaces and removes only its own values."""

from __future__ import annotations

import json
import shutil

import onnx
import pytest

from optimum_htp import inject_hub_metadata, strip_metadata
from optimum_htp.onnxfile import read_header, read_metadata, rewrite_model
from optimum_htp.stamping.derived import carry_record

NOTE = "hf_standard_keys"
ALICE = {"model_author": "Alice", "model_license": "apache-2.0"}


def standard(path):
    known = read_metadata(path)
    return {key: known[key] for key in ALICE if key in known}


def older(path):
    """Change a file to the form of a version without the note."""
    rewrite_model(path, drop=NOTE.__eq__)


def test_stamp_records_the_keys_that_it_sets(plain_bert, model_folder, access):
    inject_hub_metadata(plain_bert, "tiny/bert", access=access)
    assert json.loads(read_metadata(plain_bert)[NOTE]) == standard(plain_bert)
    assert standard(plain_bert) == {"model_author": "tiny", "model_license": "mit"}
    inject_hub_metadata(plain_bert, model_folder("bert"), access=access)
    assert read_metadata(plain_bert)[NOTE] == "{}"


@pytest.mark.parametrize("of_older_version", [False, True])
def test_values_of_other_tools_survive_repeated_stamps(plain_bert, access, of_older_version):
    rewrite_model(plain_bert, metadata=ALICE)
    for _ in range(3):
        inject_hub_metadata(plain_bert, "tiny/bert", access=access)
        assert standard(plain_bert) == ALICE
        if of_older_version:
            older(plain_bert)
    strip_metadata(plain_bert)
    assert read_metadata(plain_bert) == ALICE


@pytest.mark.parametrize("of_older_version", [False, True])
def test_stamp_of_a_local_model_leaves_no_claim_of_the_one_before(plain_bert, model_folder, access, of_older_version):
    before = onnx.load(plain_bert)
    inject_hub_metadata(plain_bert, "tiny/bert", access=access)
    assert read_header(plain_bert).domain == "co.huggingface"
    if of_older_version:
        older(plain_bert)
    inject_hub_metadata(plain_bert, model_folder("bert"), access=access)
    assert standard(plain_bert) == {}
    assert read_header(plain_bert).domain == "local.optimum-htp"
    strip_metadata(plain_bert)
    assert onnx.load(plain_bert) == before


def test_domain_of_other_tools_is_kept(plain_bert, model_folder, access):
    rewrite_model(plain_bert, texts={"domain": "org.acme"})
    for model in ("tiny/bert", model_folder("bert")):
        inject_hub_metadata(plain_bert, model, access=access)
        assert read_header(plain_bert).domain == "org.acme"


def test_stamp_of_another_model_of_a_hub_replaces_its_own(plain_bert, published, hub, access):
    repo = hub.repos[published("bert").repo_id]
    hub.add("org/copy", dict(repo.commits[repo.refs["main"]]), pipeline_tag=repo.pipeline_tag)
    inject_hub_metadata(plain_bert, "tiny/bert", access=access)
    inject_hub_metadata(plain_bert, "org/copy", access=access)
    assert standard(plain_bert) == {"model_author": "org"}  # its card names no license


def test_values_changed_after_the_stamp_are_kept(plain_bert, model_folder, access):
    inject_hub_metadata(plain_bert, "tiny/bert", access=access)
    rewrite_model(plain_bert, metadata={"model_license": "proprietary"})
    inject_hub_metadata(plain_bert, model_folder("bert"), access=access)
    assert standard(plain_bert) == {"model_license": "proprietary"}
    strip_metadata(plain_bert)
    assert read_metadata(plain_bert) == {"model_license": "proprietary"}


def test_strip_keeps_equal_values_of_other_tools(plain_bert, access):
    theirs = {"model_author": "tiny", "model_license": "mit"}
    rewrite_model(plain_bert, metadata=theirs)
    before = onnx.load(plain_bert)
    inject_hub_metadata(plain_bert, "tiny/bert", access=access)
    assert read_metadata(plain_bert)["hf_license"] == "mit"
    strip_metadata(plain_bert)
    assert onnx.load(plain_bert) == before


def test_strip_removes_the_recorded_keys_of_older_files(plain_bert, access):
    before = onnx.load(plain_bert)
    inject_hub_metadata(plain_bert, "tiny/bert", access=access)
    older(plain_bert)
    strip_metadata(plain_bert)
    assert onnx.load(plain_bert) == before


@pytest.mark.parametrize(
    "note", ["", "[", "[" * 100_000, "[1]", '"model_license"', '{"model_license": 1, "mine": "x"}']
)
def test_foreign_note_removes_nothing(plain_bert, access, note):
    inject_hub_metadata(plain_bert, "tiny/bert", access=access)
    rewrite_model(plain_bert, metadata={NOTE: note, "mine": "x"})
    strip_metadata(plain_bert)
    assert read_metadata(plain_bert) == {"model_author": "tiny", "model_license": "mit", "mine": "x"}


@pytest.mark.parametrize("keeps_properties", [False, True])
def test_derived_files_get_the_record(plain_bert, access, tmp_path, keeps_properties):
    """A tool may keep the properties, or lose them."""
    rewrite_model(plain_bert, metadata={"model_license": "apache-2.0"})
    made = shutil.copy(plain_bert, tmp_path / "made.onnx")
    inject_hub_metadata(plain_bert, "tiny/bert", access=access)
    if keeps_properties:
        shutil.copy(plain_bert, made)
    else:
        rewrite_model(made, drop=lambda key: True)
    assert carry_record(plain_bert, made, None) is not None
    assert standard(made) == {"model_author": "tiny", "model_license": "apache-2.0"}
    assert json.loads(read_metadata(made)[NOTE]) == {"model_author": "tiny"}
