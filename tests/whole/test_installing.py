"""README's commands for transformers 5: they keep the installed packages, and exports and loads work."""

from __future__ import annotations

import sys

import pytest

from tests.support.installing import BARE, FULL, WITH_PIP, WITH_UV, created, installed, is_bridged, works

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="the commands are for a POSIX shell"),
]


def test_pip_commands_keep_the_installed_packages(published, model_folder, tmp_path):
    assert len(WITH_PIP) == 2
    fresh = created(tmp_path / "venv")
    fresh.have(BARE)
    installed(fresh, WITH_PIP)
    works(fresh, published("bert").repo_id, model_folder("bert"), tmp_path / "out")
    is_bridged(fresh)


def test_uv_command_works_with_newer_packages(published, model_folder, tmp_path):
    assert len(WITH_UV) == 1
    fresh = created(tmp_path / "venv")
    fresh.have(FULL)
    # optimum-intel permits older transformers versions only.
    fresh.have(["optimum-intel==2.2.0"], "--no-deps")
    installed(fresh, WITH_UV)
    fresh.command(
        "python", "-c", "import sentence_transformers; from optimum.onnxruntime import ORTStableDiffusionPipeline"
    )
    works(fresh, published("bert").repo_id, model_folder("bert"), tmp_path / "out")
    is_bridged(fresh)
