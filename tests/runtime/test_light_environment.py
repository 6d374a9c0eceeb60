"""The runtime in an environment with onnxruntime, tokenizers and this package, without the frameworks."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from optimum_htp.extras.endpoint.folder import write_endpoint
from optimum_htp.runtime import load
from tests.conftest import ROOT
from tests.support.alone import run_alone

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="the paths are those of POSIX")]

GUIDE = (ROOT / "docs" / "without-pytorch.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^pip install .*$", GUIDE.partition("## Install without PyTorch")[2], re.MULTILINE)[:2]
LARGEST = 300 * 10**6  # bytes
FRAMEWORKS = ("torch", "transformers", "optimum", "onnx", "diffusers")
TEXT = "the big cat sat on the mat"
ANSWERS = """
import json, sys
from optimum_htp.runtime import load
print(json.dumps([load(path)(*inputs, **options) for path, inputs, options in json.loads({calls!r})]))
loaded = [name for name in {frameworks} if name in sys.modules]
assert not loaded, loaded
"""


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The Python of a new environment, created by the commands of the guide with the wheel instead of PyPI's."""
    folder = tmp_path_factory.mktemp("light")
    venv.create(folder, with_pip=True)
    path = folder / "bin" / "python"
    for command in COMMANDS:
        words = command.replace("optimum-htp", str(wheel)).split()
        subprocess.run([path, "-m", *words, "--quiet", "--constraint", ROOT / "constraints.txt"], check=True)
    return path


def test_environment_is_small(python):
    assert len(COMMANDS) == 2
    packages = next(python.parents[1].glob("lib/python*/site-packages"))
    installed = {path.name.lower() for path in packages.iterdir()}
    assert installed.isdisjoint({*FRAMEWORKS} - {"optimum"})  # `optimum/` contains the file for optimum-cli
    assert not any(name.startswith(("optimum-2", "optimum_onnx")) for name in installed)
    size = sum(path.stat().st_size for path in packages.rglob("*") if path.is_file() and "pip" not in path.parts)
    assert size < LARGEST


def test_results_match_those_with_the_frameworks(python, exported, zoo_export, tmp_path):
    greedy = {"do_sample": False, "max_new_tokens": 6}
    calls = [
        (str(exported("bert")), (TEXT,), {}),
        (str(exported("gpt2") / "model.onnx"), ("the cat",), greedy),
        (str(exported("t5")), ("the cat",), {"max_new_tokens": 6}),
        (str(zoo_export("deberta-v2").output), (TEXT,), {"aggregation_strategy": "simple"}),
        (str(zoo_export("distilbert").output), ({"question": "who sat?", "context": TEXT},), {}),
        (str(zoo_export("bert").output), ("the [MASK] sat",), {}),
    ]
    out = run_alone(ANSWERS.format(calls=json.dumps(calls), frameworks=FRAMEWORKS), tmp_path, python=python)
    expected = [load(path)(*inputs, **options) for path, inputs, options in calls]
    assert json.loads(out.splitlines()[-1]) == json.loads(json.dumps(expected))


@pytest.mark.parametrize(
    ("config", "is_used"),
    [
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, True),
        ({"model_type": "bert"}, True),
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, False),
    ],
    ids=repr,
)
def test_config_next_to_the_file_is_used_if_it_is_of_the_same_family(config, is_used, python, exported, tmp_path):
    (folder := tmp_path / "model").mkdir()
    shutil.copy(exported("bert") / "model.onnx", folder)
    labels = {str(index): f"adjacent {index}" for index in range(3)}
    (folder / "config.json").write_text(json.dumps({**config, "id2label": labels}))
    command = [python, "-m", "optimum_htp.runtime", folder, TEXT]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert ("adjacent" in done.stdout) is is_used
    assert ("is not used for model.onnx" in done.stderr) is not is_used


def test_embeddings_and_missing_dependency(python, exported, tmp_path):
    code = """
from optimum_htp.runtime import load
print(load({sentences!r}).encode("a cat").shape)
try:
    load({images!r})("image.png")
except ImportError as error:
    print(error)
"""
    code = code.format(sentences=str(exported("minilm")), images=str(exported("vit")))
    out = run_alone(code, tmp_path, python=python)
    assert out.splitlines() == ["(384,)", "Images need Pillow. Run `pip install pillow`."]


def test_command_runs(python, exported, tmp_path):
    command = [python, "-m", "optimum_htp.runtime", exported("bert"), TEXT, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert json.loads(done.stdout)["answer"] == load(exported("bert"))(TEXT)


def test_hub_file_is_downloaded_and_runs(python, exported, hub, tmp_path):
    hub.add("me/shipped", {"model.onnx": (exported("bert") / "model.onnx").read_bytes()})
    code = f"""
from optimum_htp.runtime import load
print(load("hf://me/shipped/model.onnx")({TEXT!r}), load("me/shipped")({TEXT!r}))
"""
    env = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url}
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answer = load(exported("bert"))(TEXT)
    assert done.stdout.strip() == f"{answer} {answer}"


def test_endpoint_runs_from_its_archive(python, exported, tmp_path):
    write_endpoint(exported("bert") / "model.onnx", tmp_path / "endpoint", is_light=True)
    lines = (tmp_path / "endpoint" / "requirements.txt").read_text().splitlines()
    assert not any(line.partition("==")[0] in FRAMEWORKS for line in lines)
    folder = tmp_path / "endpoint"
    code = f"""
import runpy
handler = runpy.run_path({str(folder / "handler.py")!r})["EndpointHandler"]({str(folder)!r})
print(handler({{"inputs": {TEXT!r}}}))
import optimum_htp
print(optimum_htp.__file__)
"""
    out = run_alone(code, tmp_path, python=python).splitlines()
    assert out[0] == str(load(exported("bert"))(TEXT))
    assert Path(out[1]) == tmp_path / "endpoint" / "optimum_htp.zip" / "optimum_htp" / "__init__.pyc"


def test_memory_does_not_grow(python, exported, tmp_path):
    code = f"""
import gc
from optimum_htp.runtime import load
model = load({str(exported("bert") / "model.onnx")!r})

def resident():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

for _ in range(500):
    model({TEXT!r})
before = resident()
for _ in range(10000):
    model({TEXT!r})
print(resident() - before)
"""
    grown = int(run_alone(code, tmp_path, python=python).splitlines()[-1])
    assert grown < 4 * 2**20
