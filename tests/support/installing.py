"""New virtual environments with this package, and checks that it works in them."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT, run

# Versions are those of constraints-newest.txt.
BARE = ["torch", "transformers"]
FULL = [*BARE, "sentence-transformers", "diffusers", "pillow"]
SECTION = (
    (ROOT / "README.md")
    .read_text(encoding="utf-8")
    .partition("\noptimum-onnx requires")[2]
    .partition("\nNo import")[0]
)
WITH_PIP = re.findall(r"^pip install .*$", SECTION, re.MULTILINE)
WITH_UV = re.findall(r"`(uv pip install [^`]*)`", SECTION)
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
    """A new virtual environment with uv."""

    folder: Path

    def command(self, *arguments: str | Path, check: bool = True, **env: str) -> str:
        """Run a command that is installed in the environment, and return its output."""
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        env = {"PATH": path, "VIRTUAL_ENV": str(self.folder), "PYTHONPATH": "", **env}
        return run(self.folder / "bin" / arguments[0], *arguments[1:], check=check, **env).stdout

    def have(self, packages: Sequence[str], *options: str) -> None:
        self.command("uv", "pip", "install", "--constraint", ROOT / "constraints-newest.txt", *options, *packages)

    def versions(self) -> dict[str, str]:
        return {one["name"]: one["version"] for one in json.loads(self.command("pip", "list", "--format", "json"))}


def created(folder: Path) -> Environment:
    run(sys.executable, "-m", "venv", folder)
    run(folder / "bin" / "pip", "install", "--quiet", "uv")
    return Environment(folder)


def installed(environment: Environment, commands: Sequence[str], **env: str) -> None:
    """Run README's commands, and check that they only add packages."""
    before = environment.versions()
    for command in commands:
        environment.command(*shlex.split(command), **env)
    after = environment.versions()
    assert {name: after.get(name) for name in before} == before
    assert {"optimum-htp", "optimum", "optimum-onnx", "onnx", "onnxruntime"} <= after.keys() - before.keys()


def works(environment: Environment, repo_id: str, model: Path, output: Path) -> None:
    """Check that a model is exported, and that Optimum loads the file alone and returns PyTorch's logits."""
    environment.command("optimum-cli", "export", "htp", "--model", repo_id, output, HF_HOME=str(output / "first"))
    file, home = output / "model.onnx", str(output / "second")
    difference, largest = environment.command("python", "-c", CHECK, file, model, HF_HOME=home).split()
    assert float(difference) < 1e-4 < float(largest)


def is_bridged(environment: Environment) -> None:
    """Check that `htp env` reports transformers 5, and that every break is bridged."""
    about = json.loads(environment.command("optimum-cli", "htp", "env", "--json"))
    versions = {package["name"]: package["version"] for package in about["packages"]}
    assert versions["transformers"].startswith("5.")
    assert about["faults"] == {}
    assert about["breaks"]
    of_newer_code = {"moved_check_of_image_sizes"}  # optimum-onnx 0.1.0 does not have it
    assert {item["name"] for item in about["breaks"] if not item["bridged"]} == of_newer_code
