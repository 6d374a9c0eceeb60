"""A plugin as its author ships it: its own wheel, installed next to ours, and used in new processes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from optimum_htp.onnxfile import read_metadata
from tests.conftest import ROOT, run

PLUGIN = ROOT / "tests" / "plugin"
SCRIPTS = "Scripts" if sys.platform == "win32" else "bin"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("git") is None, reason="needs git: the plugin's Hub is a folder of its repos"),
]
LOADS = """
import sys
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoConfig, AutoTokenizer
model = ORTModelForSequenceClassification.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
print(model.config.id2label[0], *tokenizer.tokenize("the cat"), AutoConfig.from_pretrained(sys.argv[1]).model_type)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The Python of a new environment with the plugin and the packages of this one."""
    folder = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(PLUGIN, folder / "source")
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder, source)
    (wheel,) = folder.glob("acme_hub-1.0-*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    python = folder / "venv" / SCRIPTS / "python"
    run(*pip, "--python", python, "install", "--no-deps", "--no-index", wheel)
    ours = sysconfig.get_path("purelib")
    found = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip()
    Path(found, "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    return python


@pytest.fixture(scope="module")
def repos(tmp_path_factory, model_folder):
    """A folder of git repos, with one model whose branch has changed since its tag."""
    folder = tmp_path_factory.mktemp("acme")
    work, bare = shutil.copytree(model_folder("bert"), folder / "work"), folder / "org" / "bert.git"
    git = ("git", "-c", "user.name=Acme", "-c", "user.email=acme@localhost", "-C", work)
    for command in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "A model"], ["tag", "v1"]):
        subprocess.run([*git, *command], check=True)
    (work / "vocab.txt").unlink()
    subprocess.run([*git, "commit", "-qam", "Without its words"], check=True)
    subprocess.run(["git", "clone", "-q", "--bare", work, bare], check=True)
    return folder


@pytest.fixture
def acme(environment, repos, tmp_path):
    def call(*arguments, check=True, **variables):
        return run(
            environment, *arguments, check=check, **{"ACME_HUB": str(repos), "HOME": str(tmp_path), **variables}
        )

    return call


def test_plugin_exports_loads_and_verifies(acme, repos, tmp_path, hub):
    cli = ("-m", "optimum.commands.optimum_cli")
    commit = subprocess.run(
        ["git", "-C", repos / "org" / "bert.git", "rev-parse", "v1"], check=True, capture_output=True, text=True
    ).stdout.strip()
    file = tmp_path / "out" / "model.onnx"
    with hub.recorded() as requests:
        acme(*cli, "export", "htp", "--model", "acme://org/bert@v1", file.parent)
        assert acme("-c", LOADS, file).stdout == "LABEL 0 the cat bert\n"
        assert "ok" in acme(*cli, "htp", "verify", file).stdout
        shown = json.loads(acme(*cli, "htp", "info", file, "--json").stdout)["files"][0]["record"]
        moved = acme(*cli, "export", "htp", "--model", "acme://org/none", tmp_path / "none", check=False)
    assert requests == []
    written = read_metadata(file)
    assert (written["hf_hub_provider"], written["hf_hub_id"], written["hf_hub_sha"]) == ("acme", "org/bert", commit)
    assert (shown["hub_ref"], written["acme_owner"]) == ("v1", "Acme")
    assert "Acme has no model org/none" in moved.stderr
    assert not (tmp_path / "none").exists()


def test_plugin_adds_a_command_and_a_destination(acme, tmp_path):
    cli = ("-m", "optimum.commands.optimum_cli")
    assert "List the models of Acme." in acme(*cli, "htp").stdout
    assert acme(*cli, "htp", "acme").stdout == "org/bert\n"
    (tmp_path / "copies").mkdir()
    export = (*cli, "export", "htp", "--model", "acme://org/bert@v1", "--copy-to", tmp_path / "copies", "--json")
    document = json.loads(acme(*export, tmp_path / "out").stdout)
    assert document["copied"] == {"files": [str(tmp_path / "copies" / "model.onnx")]}
    assert (tmp_path / "copies" / "model.onnx").read_bytes() == (tmp_path / "out" / "model.onnx").read_bytes()


def test_missing_plugin_is_named(acme, tmp_path):
    run_without = run(
        sys.executable,
        "-c",
        "from optimum_htp import HTPExporter; HTPExporter().export('acme://org/bert', 'out')",
        check=False,
    )
    assert "UnknownHubError" in run_without.stderr
    assert "Known Hubs: huggingface, modelscope. Install the distribution" in run_without.stderr
