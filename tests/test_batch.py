"""Many models in one go: each in a process of its own, each once, whatever is killed meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from optimum_htp import HFHubConfigLoader
from optimum_htp.delivery.jobs import Job, jobs_from_lines
from optimum_htp.errors import BatchListError
from tests.conftest import run

CLI = Path(sys.executable).with_name("optimum-cli")


def batch(*arguments, check=True, **env):
    """Run the command in a fresh process: a batch forks its own."""
    done = run(CLI, "htp", "batch", *arguments, "--json", check=check, **env)
    return {model["output"]: model for model in json.loads(done.stdout)["models"]}


def journal(folder):
    return [json.loads(line) for line in (folder / "batch.jsonl").read_text().splitlines()]


@pytest.fixture
def models(published, hub):
    names = [published(name).repo_id for name in ("bert", "gpt2", "vit")]
    return names


def test_every_model_of_a_list_is_exported_and_a_second_run_does_nothing(models, hub, tmp_path, empty_home):
    listed = tmp_path / "models.txt"
    listed.write_text("# ours\n" + "\n".join(models[:2]) + f'\n{{"model": "{models[2]}", "output": "images"}}\n\n')
    first = batch(listed, tmp_path / "out", "--jobs", "2", **empty_home)
    assert {name: model["state"] for name, model in first.items()} == {
        "tiny/bert": "done",
        "tiny/gpt2": "done",
        "images": "done",
    }
    for name, model in first.items():
        for file in model["files"]:
            assert (tmp_path / "out" / name / file["name"]).stat().st_size == file["size"]
        assert HFHubConfigLoader().extract_metadata(tmp_path / "out" / name / "model.onnx")["hf_hub_sha"] == model["commit"]
        assert model["seconds"] > 0
        assert model["peak_memory"] > 1e8
    with hub.recorded() as requests:
        second = batch(listed, tmp_path / "out", **empty_home)
    assert {model["state"] for model in second.values()} == {"whole"}
    assert len(requests) <= 2 * len(models)
    assert sum(entry["event"] == "end" for entry in journal(tmp_path / "out")) == 3
