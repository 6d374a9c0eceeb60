"""`make release`: its wheel and its sdist work on both stacks, and its files are listed and signed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from optimum_htp.version import __version__
from tests.conftest import ROOT, run
from tests.support.installing import BARE, WITH_PIP, Environment, created, installed, is_bridged, works

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform == "win32" or shutil.which("openssl") is None, reason="make and openssl are needed"
    ),
]

SIGNING = ROOT / ".venv-model-signing" / "bin" / "model_signing"


@dataclass(frozen=True)
class Release:
    """The files of a release, the key for its signature, and an environment with its wheel."""

    folder: Path
    key: Path
    shipped: Environment

    @property
    def packages(self) -> str:
        return str(self.folder / "packages")

    def is_signed(self) -> bool:
        arguments = ["verify", "key", self.folder, "--public_key", self.key]
        verified = subprocess.run(
            [SIGNING, *arguments, "--signature", self.folder / "optimum-htp.sig"], capture_output=True, check=False
        )
        return verified.returncode == 0


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    private, public = folder / "key.pem", folder / "public.pem"
    run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private)
    run("openssl", "ec", "-in", private, "-pubout", "-out", public)
    places = [f"DIST={folder / 'dist'}", f"RELEASE={folder / 'venv'}", f"KEY={private}", f"PYTHON={sys.executable}"]
    run("make", "-C", ROOT, "release", *places)
    return Release(folder / "dist", public, Environment(folder / "venv" / "shipped"))


def test_files_of_a_release_are_listed_and_signed(release):
    names = {f"optimum_htp-{__version__}-py3-none-any.whl", f"optimum_htp-{__version__}.tar.gz"}
    assert {path.name for path in Path(release.packages).iterdir()} == names
    text = (release.folder / "optimum-htp.cdx.json").read_text()
    bill = json.loads(text)
    main = bill["metadata"]["component"]
    assert (main["name"], main["version"]) == ("optimum-htp", __version__)
    listed = {component["name"].lower().replace("_", "-") for component in bill["components"]}
    assert {
        "optimum",
        "optimum-onnx",
        "transformers",
        "huggingface-hub",
        "onnx",
        "onnxruntime",
        "torch",
        "pluggy",
    } <= listed
    assert str(ROOT) not in text
    assert str(release.folder) not in text
    assert release.is_signed()
    bill["components"].pop()
    (release.folder / "optimum-htp.cdx.json").write_text(json.dumps(bill))
    assert not release.is_signed()
    (release.folder / "optimum-htp.cdx.json").write_text(text)
    assert release.is_signed()


def test_wheel_and_sdist_work_with_transformers_4(release, published, model_folder, tmp_path):
    works(release.shipped, published("bert").repo_id, model_folder("bert"), tmp_path / "wheel")
    sdist = next(Path(release.packages).glob("*.tar.gz"))
    release.shipped.command("pip", "install", "--force-reinstall", "--no-deps", sdist)
    works(release.shipped, published("bert").repo_id, model_folder("bert"), tmp_path / "sdist")


def test_wheel_and_sdist_work_with_transformers_5(release, published, model_folder, tmp_path):
    fresh = created(tmp_path / "venv")
    fresh.have(BARE)
    # README: a published release is installed by its name.
    commands = [re.sub(r" \.$", " optimum-htp", command) for command in WITH_PIP]
    assert sum("optimum-htp" in command for command in commands) == 1
    installed(fresh, commands, PIP_FIND_LINKS=release.packages)
    works(fresh, published("bert").repo_id, model_folder("bert"), tmp_path / "wheel")
    sdist = next(Path(release.packages).glob("*.tar.gz"))
    fresh.command("pip", "install", "--force-reinstall", "--no-deps", sdist)
    works(fresh, published("bert").repo_id, model_folder("bert"), tmp_path / "sdist")
    is_bridged(fresh)
