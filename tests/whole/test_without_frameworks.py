"""Work without a model runs without PyTorch, transformers and ONNX Runtime, whose imports take seconds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from optimum_htp import inject_hub_metadata, verify_metadata
from optimum_htp.caching import forget
from optimum_htp.fit.blueprint import blueprint_of_parameters, parameters_of
from optimum_htp.fit.graphs import _mismatch
from optimum_htp.libraries.tasks import class_for_task
from optimum_htp.onnxfile import read_graph
from optimum_htp.stamping.verify import Status
from tests.conftest import run_python
from tests.support.zoo import ZOO

HEAVY = "('torch', 'transformers', 'onnxruntime', 'optimum.exporters')"
COMMAND = f"""
import sys
from optimum.commands.optimum_cli import main
sys.argv[1:] = {{arguments!r}}
try:
    main()
finally:
    loaded = [name for name in {HEAVY} if name in sys.modules]
    assert not loaded, loaded
"""
PYTHON = f"""
import sys
from optimum_htp import HFHubConfigLoader, verify_metadata
print(HFHubConfigLoader().extract_metadata({{path!r}})["hf_hub_id"], verify_metadata({{path!r}}).status.name)
print([name for name in {HEAVY} if name in sys.modules])
"""


@pytest.mark.parametrize("name", ["bert", "gpt2", "resnet"])
def test_commands_import_no_framework(name, zoo_export, tmp_path, empty_home):
    path = shutil.copy(zoo_export(name).output / "model.onnx", tmp_path)
    for arguments in (
        ["inject", path, "--model", f"zoo/{name}"],
        ["verify", path],
        ["info", path],
        ["strip", path],
    ):
        run_python(COMMAND.format(arguments=["htp", *arguments]), **empty_home)


def test_reading_and_verifying_in_python_imports_no_framework(zoo_export, empty_home):
    done = run_python(PYTHON.format(path=str(zoo_export("bert").output / "model.onnx")), **empty_home)
    assert done.stdout.splitlines() == ["zoo/bert OK", "[]"]


def test_headers_of_weights_distinguish_models(zoo_export, access):
    """As many as the models themselves: see the same sample in test_fit."""
    names = ["albert", "bert", "clip", "electra", "gpt2", "resnet", "wav2vec2"]
    graphs = {
        (name, path.name): read_graph(path)
        for name in names
        for path in sorted(zoo_export(name).output.rglob("*.onnx"))
    }
    for name in names:
        folder = zoo_export(name).model
        config = json.loads((folder / "config.json").read_text())
        shapes = parameters_of(folder, (), access, None)
        blueprint = blueprint_of_parameters(config, class_for_task(ZOO[name].task, config, "transformers"), shapes)
        fitting = {
            key[0] for key, graph in graphs.items() if _mismatch(config, ZOO[name].task, graph, blueprint) is None
        }
        assert fitting == {name}


def test_the_head_of_the_weights_takes_one_range_and_none_the_second_time(zoo_export, hub, access, tmp_path):
    forget()
    path = Path(shutil.copy(zoo_export("bert").output / "model.onnx", tmp_path))
    with hub.recorded() as requests:
        assert verify_metadata(path, access).status is Status.OK
        inject_hub_metadata(path, "zoo/bert", access=access)
    asked = [request.method for request in requests if request.path.endswith("model.safetensors")]
    assert asked == ["HEAD", "GET"]


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 64, (2).to_bytes(8, "little") + b"[]", b"\x04" + bytes(7) + b"{{{{"]
)
def test_damaged_weights_leave_the_verdict_to_the_model(content, zoo_export, hub, access, tmp_path):
    forget()
    files = {path.name: path.read_bytes() for path in zoo_export("bert").model.iterdir()}
    hub.add("zoo/damaged", {**files, "model.safetensors": content})
    path = Path(shutil.copy(zoo_export("bert").output / "model.onnx", tmp_path))
    inject_hub_metadata(path, "zoo/damaged", access=access)
    assert verify_metadata(path, access).status is Status.OK
