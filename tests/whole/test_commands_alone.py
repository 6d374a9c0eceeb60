"""Commands and Auto classes without PyTorch and optimum-onnx, with stored files.

`make test-newest` runs this with the newest transformers and huggingface_hub, and no other package of Optimum.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import ROOT, optimum_cli, run_python
from tests.support.marks import slowly

KEPT = ROOT / "tests" / "released" / "0.1.0"
AUTO = """
import json, sys
import optimum_htp  # PyTorch does this where it is installed
from transformers import AutoConfig, AutoTokenizer
config, tokenizer = (kind.from_pretrained(sys.argv[1]) for kind in (AutoConfig, AutoTokenizer))
ids = tokenizer("the cat").input_ids
print(json.dumps([config.model_type, config.num_labels, tokenizer.tokenize("the cat"), ids]))
"""


@pytest.fixture
def hub_with_it(hub):
    """The Hub, with the commit of the stored files."""
    known = json.loads((KEPT / "expected.json").read_text())
    repo = hub.add(known["repo"], {}, pipeline_tag="text-classification", library_name="transformers")
    repo.commits = {known["commit"]: {path.name: path.read_bytes() for path in (KEPT / "repo").iterdir()}}
    repo.refs = {"main": known["commit"]}
    yield hub
    del hub.repos[known["repo"]]


@pytest.fixture(params=["hub", *slowly("hub-bare"), "local"])
def file(request, tmp_path, hub_with_it):
    return Path(shutil.copy(KEPT / request.param / "model.onnx", tmp_path / "model.onnx"))


def test_auto_classes_load_config_and_preprocessors_of_a_file(file, empty_home):
    code = AUTO.replace("sys.argv[1]", repr(str(file)))
    kind, labels, tokens, ids = json.loads(run_python(code, **empty_home).stdout.splitlines()[-1])
    assert (kind, labels, tokens) == ("bert", 3, ["the", "cat"])
    assert len(ids) == 4


def test_commands_that_read(file, empty_home, tmp_path):
    assert optimum_cli("htp", "verify", file, **empty_home).returncode == 0
    (about,) = json.loads(optimum_cli("htp", "info", file, "--json", **empty_home).stdout)["files"]
    assert about["record"]["task"] == "text-classification"
    assert "BertSelfOutput" in optimum_cli("htp", "info", file, "--tree", **empty_home).stdout
    names = optimum_cli("htp", "nodes", file, "bert.encoder.layer.0.attention.self.query", **empty_home).stdout
    assert "/bert/encoder/layer.0/attention/self/query/MatMul" in names
    optimum_cli("htp", "report", file, "-o", tmp_path / "page.html", **empty_home)
    assert "bert.encoder.layer.0" in (tmp_path / "page.html").read_text()
    timed = optimum_cli("htp", "profile", file, "--json", **empty_home)
    assert json.loads(timed.stdout)
    assert optimum_cli("htp", "compare", file, file, **empty_home).returncode == 0


def test_commands_that_write(file, empty_home, tmp_path):
    plain = tmp_path / "plain.onnx"
    shutil.copy(file, plain)
    optimum_cli("htp", "strip", plain, **empty_home)
    optimum_cli("htp", "inject", plain, "--model", "tiny/bert", **empty_home)
    optimum_cli("htp", "tag", plain, **empty_home)
    optimum_cli("htp", "unembed", plain, "-o", tmp_path / "files", **empty_home)
    assert {"config.json", "tokenizer.json"} <= {path.name for path in (tmp_path / "files").iterdir()}
    optimum_cli("htp", "embed", plain, **empty_home)
    optimum_cli(
        "htp", "extract", file, "--module", "bert.encoder.layer.0", "-o", tmp_path / "layer.onnx", **empty_home
    )
    for made in (plain, tmp_path / "layer.onnx"):
        assert optimum_cli("htp", "verify", made, **empty_home).returncode == 0
    optimum_cli("htp", "mirror", plain, "-o", (tmp_path / "mirror").as_uri(), **empty_home)
    assert list((tmp_path / "mirror").rglob("config.json"))


def test_two_files_of_a_text_model_are_compared_without_pytorch(file, empty_home):
    code = f"""
import sys
from optimum_htp import compare_models
assert not compare_models({str(file)!r}, {str(file)!r}).exceeds
print(sorted({{"torch", "optimum.exporters", "transformers"}} & sys.modules.keys()))
"""
    assert run_python(code, **empty_home).stdout.splitlines()[-1] == "[]"
