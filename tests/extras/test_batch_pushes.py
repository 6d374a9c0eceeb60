"""Batches with pushes: each export is pushed once per repo and options, also after pushes to other repos."""

from __future__ import annotations

import json

import pytest

from tests.conftest import run
from tests.support.batches import CLI, journal
from tests.support.pushes import WRITER, pushed_files


@pytest.mark.slow
def test_export_is_pushed_to_each_place_that_is_asked_for(org, published, tmp_path, empty_home):
    (tmp_path / "models.txt").write_text(published("bert").repo_id)

    def push(*where):
        command = (
            CLI,
            "htp",
            "batch",
            tmp_path / "models.txt",
            "-o",
            tmp_path / "out",
            "--json",
            "--push-to-hub",
            *where,
        )
        with org.recorded() as requests:
            done = run(*command, **empty_home, HF_TOKEN=WRITER)
        assert json.loads(done.stdout)["failed"] == 0
        return sum("/commit/" in request.path for request in requests)

    assert push("me") == 1
    assert push("me") == 0
    assert push("me/other-{name}") == 1
    assert pushed_files(org, "me/other-bert").keys() == pushed_files(org, "me/bert-onnx").keys()
    assert push("me/other-{name}", "--layout", "transformers.js") == 1
    assert "onnx/model.onnx" in pushed_files(org, "me/other-bert")
    assert push("me/other-{name}", "--layout", "transformers.js") == 0
    assert sum(entry["event"] == "push" for entry in journal(tmp_path / "out")) == 3
