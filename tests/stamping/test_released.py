"""Files of released versions and older HTP tools: read, verified and loaded as before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from optimum_htp import HFHubConfigLoader, embed_files, tag_file, verify_metadata
from optimum_htp.metadata import read_record
from optimum_htp.stamping.verify import Status
from tests.conftest import ROOT
from tests.released.make import logits

RELEASED = ROOT / "tests" / "released"
FILES = sorted(path.relative_to(RELEASED).as_posix() for path in RELEASED.rglob("*.onnx"))


@pytest.fixture
def expected():
    return lambda name: json.loads((RELEASED / Path(name).parts[0] / "expected.json").read_text())


@pytest.fixture
def file(request, hub, expected, tmp_path):
    """A copy of a stored file, and its commit on the Hub."""
    known = expected(request.param)
    repo = hub.add(known["repo"], {}, pipeline_tag="text-classification", library_name="transformers")
    folder = RELEASED / Path(request.param).parts[0] / "repo"
    repo.commits = {known["commit"]: {path.name: path.read_bytes() for path in folder.iterdir()}}
    repo.refs = {"main": known["commit"]}
    yield Path(shutil.copy(RELEASED / request.param, tmp_path / "model.onnx")), known
    del hub.repos[known["repo"]]


@pytest.mark.parametrize("file", FILES, indirect=True)
def test_file_answers_as_it_did(file, empty_home):
    path, known = file
    assert np.allclose(logits(path), known["logits"], atol=1e-5)
    config, tokenizer = HFHubConfigLoader().load_from_onnx(path)
    assert config.num_labels == 3
    assert tokenizer.tokenize("the cat") == ["the", "cat"]


@pytest.mark.parametrize("file", FILES, indirect=True)
def test_new_file_has_the_recorded_model_and_accepts_tags(file):
    path, known = file
    record = read_record(path)
    assert record.model_type == "local" or record.hub_id == known["repo"]
    assert verify_metadata(path).status is Status.OK
    tag_file(path)
    if not record.embedded_files:
        embed_files(path)
    assert verify_metadata(path).status is Status.OK
    assert np.allclose(logits(path), known["logits"], atol=1e-5)


def test_each_kind_of_file_is_kept():
    assert {Path(name).parts[0] for name in FILES} >= {"0.1.0", "modelexport-0.1"}
    assert {Path(name).parts[1] for name in FILES} == {"hub", "hub-bare", "local"}
