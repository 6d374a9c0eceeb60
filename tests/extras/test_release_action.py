"""The CI action: its script in a real shell with the loopback Hub, from the first release to a refusal."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.support import models

ACTION = ROOT / ".github" / "actions" / "onnx-release"
TOKEN = "hf_releasesCCCCCCCCCCCCCCCCCCCCCCCCCCCCCC"

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")


def test_action_hands_every_input_to_the_script():
    action = yaml.safe_load((ACTION / "action.yml").read_text())
    (step,) = action["runs"]["steps"]
    assert {re.search(r"inputs\.([\w-]+)", value)[1] for value in step["env"].values()} == action["inputs"].keys()
    script = (ACTION / "release.sh").read_text()
    assert all(re.search(rf"\$\{{?{name}\b", script) for name in step["env"])


@pytest.fixture
def release(hub, tmp_path):
    hub.writers, hub.tokens = {TOKEN: {"me"}}, {TOKEN: set()}
    home = {"HF_HOME": str(tmp_path / "home"), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def run(**env: str) -> subprocess.CompletedProcess[str]:
        inputs = {"MODEL": "tiny/released", "REPO": "me/released", "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}
        return subprocess.run(
            ["bash", ACTION / "release.sh"],
            cwd=tmp_path,
            env={**os.environ, **home, **inputs, **env},
            capture_output=True,
            text=True,
            timeout=100,
        )

    yield run
    hub.repos.pop("me/released", None)
    del hub.repos["tiny/released"]


@pytest.mark.slow
def test_release_is_compared_with_the_last_one_and_pushed(release, hub, tmp_path):
    repo = hub.add("tiny/released", models.bert(tmp_path / "first"), pipeline_tag="text-classification")
    first = release(HF_TOKEN=TOKEN)
    assert first.returncode == 0, first.stderr
    assert "me/released has no release yet" in first.stdout
    assert {"model.onnx", "README.md"} <= hub.repos["me/released"].commits[
        hub.repos["me/released"].refs["main"]
    ].keys()
    assert "pkg:huggingface/tiny/released@" in (tmp_path / "release" / "bom.cdx.json").read_text()

    second = models.bert(tmp_path / "second")
    from safetensors.torch import load_file, save_file

    weights = load_file(second / "model.safetensors")
    weights["classifier.weight"] += 1
    save_file(weights, second / "model.safetensors", metadata={"format": "pt"})
    repo.commit(second)
    released = hub.repos["me/released"].refs["main"]
    refused = release(HF_TOKEN=TOKEN)
    assert refused.returncode == 1
    assert "differs from the last release" in refused.stderr
    assert "classifier Linear" in refused.stdout
    assert hub.repos["me/released"].refs["main"] == released
    assert TOKEN not in refused.stdout + refused.stderr

    allowed = release(HF_TOKEN=TOKEN, ALLOW_DIFFERENCES="true")
    assert allowed.returncode == 0, allowed.stderr
    assert hub.repos["me/released"].refs["main"] != released
    assert "classifier" in (tmp_path / "summary.md").read_text()


@pytest.mark.slow
def test_release_of_nothing_ends_with_the_reason(release, hub, tmp_path):
    hub.add("tiny/released", {"config.json": b"{}"})
    done = release()
    assert done.returncode == 1
    assert "error: " in done.stderr
    assert not (tmp_path / "release" / "bom.cdx.json").exists()
    assert release(MODEL="").returncode != 0
