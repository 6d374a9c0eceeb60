"""Systems without links: huggingface_hub stores copies there, and new files have a name from the start."""

from __future__ import annotations

import json
import sys

import pytest

from tests.conftest import run, run_python
from tests.support.batches import CLI
from tests.support.linkless import LINKLESS, linkless

pytestmark = LINKLESS

LOAD = """
import json, sys
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer
models = [ORTModelForSequenceClassification.from_pretrained(name) for name in {names!r}]
words = AutoTokenizer.from_pretrained({names!r}[0])
print(json.dumps([model(**words("a small cat", return_tensors="pt")).logits.tolist() for model in models]))
"""


def test_model_is_exported_verified_and_loaded_with_the_hub_and_without(published, hub, tmp_path):
    env = {**linkless(tmp_path), "HF_HOME": str(tmp_path / "home")}
    file = tmp_path / "out" / "model.onnx"
    run(CLI, "export", "htp", "--model", published("bert").repo_id, file.parent, **env)
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_symlink()]
    assert "ok: matches tiny/bert" in run(CLI, "htp", "verify", file, **env).stdout
    main = hub.repos["tiny/bert"]
    hub.add("plain/bert", {**main.commits[main.refs["main"]], "model.onnx": file.read_bytes()})
    names = [str(file), "plain/bert"]
    answers = [
        json.loads(run_python(LOAD.format(names=names), **env, **offline).stdout.splitlines()[-1])
        for offline in ({}, {"HF_HUB_OFFLINE": "1"})
    ]
    assert answers[0] == answers[1]
    assert answers[0][0][0] == pytest.approx(answers[0][1][0])


@pytest.mark.slow
@pytest.mark.parametrize(
    "tests",
    [("tests/extras/test_push_files.py", "-k", "external_data"), ("tests/loading/test_diffusion.py",)],
    ids=" ".join,
)
def test_files_are_copied_if_links_are_not_permitted(tests, tmp_path):
    done = run(
        *("env", "-u", "PYTEST_XDIST_WORKER", sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
        *("--basetemp", tmp_path / "inner", *tests),
        **linkless(tmp_path),
    )
    assert " passed" in done.stdout
