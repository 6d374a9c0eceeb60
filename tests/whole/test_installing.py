"""README's commands for an environment with transformers 5: what is installed stays, and exports and loads work."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT, run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="the commands are those of a POSIX shell"),
]

SECTION = (
    (ROOT / "README.md").read_text(encoding="utf-8").partition("With transformers 5")[2].partition("\nIt needs")[0]
)
WITH_PIP = re.findall(r"^pip install .*$", SECTION, re.MULTILINE)
WITH_UV = re.findall(r"`(uv pip install [^`]*)`", SECTION)
# What others have installed: the versions are those of constraints-newest.txt. optimum-intel permits an older
# transformers only, so it can come with --no-deps alone.
BARE = ["torch", "transformers"]
FULL = [*BARE, "sentence-transformers", "diffusers", "pillow"]
CHECK = """
import sys, torch
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoModelForSequenceClassification

ids = torch.tensor([[2, 7, 8, 9, 3]])
inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
expected = AutoModelForSequenceClassification.from_pretrained(sys.argv[2])(**inputs).logits
got = ORTModelForSequenceClassification.from_pretrained(sys.argv[1])(**inputs).logits
print((got - expected).abs().max().item(), expected.abs().max().item())
"""


@dataclass(frozen=True)
class Environment:
    """A fresh virtual environment with uv in it."""

    folder: Path

    def command(self, *arguments: str | Path, check: bool = True, **env: str) -> str:
        """Run a command of the environment's own; return what it prints."""
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        env = {"PATH": path, "VIRTUAL_ENV": str(self.folder), "PYTHONPATH": "", **env}
        return run(self.folder / "bin" / arguments[0], *arguments[1:], check=check, **env).stdout

    def have(self, packages: Sequence[str], *options: str) -> None:
        self.command("uv", "pip", "install", "--constraint", ROOT / "constraints-newest.txt", *options, *packages)

    def versions(self) -> dict[str, str]:
        return {one["name"]: one["version"] for one in json.loads(self.command("pip", "list", "--format", "json"))}


@pytest.fixture
def fresh(tmp_path):
    folder = tmp_path / "venv"
    run(sys.executable, "-m", "venv", folder)
    run(folder / "bin" / "pip", "install", "--quiet", "uv")
    return Environment(folder)


def installed(environment: Environment, commands: Sequence[str]) -> None:
    """Run README's commands, and see that they only add packages."""
    before = environment.versions()
    for command in commands:
        environment.command(*shlex.split(command))
    after = environment.versions()
    assert {name: after.get(name) for name in before} == before
    assert {"optimum-htp", "optimum", "optimum-onnx", "onnx", "onnxruntime"} <= after.keys() - before.keys()


def works(environment: Environment, repo_id: str, model: Path, output: Path) -> None:
    """See that a model can be exported, that the file alone loads with equal answers, and that the stack is named."""
    environment.command("optimum-cli", "export", "htp", "--model", repo_id, output, HF_HOME=str(output / "first"))
    file, home = output / "model.onnx", str(output / "second")
    difference, largest = environment.command("python", "-c", CHECK, file, model, HF_HOME=home).split()
    assert float(difference) < 1e-4 < float(largest)
    about = json.loads(environment.command("optimum-cli", "htp", "env", "--json", HF_HOME=home))
    versions = {package["name"]: package["version"] for package in about["packages"]}
    assert versions["transformers"].startswith("5.")
    assert about["faults"] == {}
    assert about["breaks"]
    of_newer_code = {"moved_check_of_image_sizes"}  # which optimum-onnx 0.1.0 does not have
    assert {item["name"] for item in about["breaks"] if not item["bridged"]} == of_newer_code


def test_pip_commands_leave_what_is_installed(fresh, published, model_folder, tmp_path):
    assert len(WITH_PIP) == 2
    fresh.have(BARE)
    installed(fresh, WITH_PIP)
    works(fresh, published("bert").repo_id, model_folder("bert"), tmp_path / "out")


def test_uv_command_works_beside_newer_packages(fresh, published, model_folder, tmp_path):
    assert len(WITH_UV) == 1
    fresh.have(FULL)
    fresh.have(["optimum-intel==2.2.0"], "--no-deps")
    installed(fresh, WITH_UV)
    fresh.command(
        "python", "-c", "import sentence_transformers; from optimum.onnxruntime import ORTStableDiffusionPipeline"
    )
    works(fresh, published("bert").repo_id, model_folder("bert"), tmp_path / "out")
