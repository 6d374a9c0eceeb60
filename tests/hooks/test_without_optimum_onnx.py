"""Without a working optimum-onnx, the commands work, and transformers loads files."""

from __future__ import annotations

import shutil
from importlib import metadata

import pytest

from tests.support.installed import Environment
from tests.support.marks import one_engine


@pytest.fixture(scope="module")
def without_optimum_onnx(wheel, tmp_path_factory):
    """An environment without optimum-onnx."""
    environment = Environment(tmp_path_factory.mktemp("without") / "venv")
    environment.install(wheel)
    distribution = metadata.distribution("optimum-onnx")
    for file in distribution.files:
        path = environment.site_packages / file
        if file.parts[0] == "optimum" and path.is_file():
            path.unlink()
    for path in environment.site_packages.glob("optimum_onnx*"):
        path.unlink()
    for folder in ("onnxruntime", "exporters/onnx", "onnx"):
        shutil.rmtree(environment.site_packages / "optimum" / folder)
    return environment


@one_engine
def test_command_line_works_without_optimum_onnx(without_optimum_onnx):
    assert "export" in without_optimum_onnx.cli("--help").stdout
    assert "optimum" in without_optimum_onnx.cli("env").stdout
    assert "info" in without_optimum_onnx.cli("htp", "--help").stdout
    assert "needs optimum-onnx" in without_optimum_onnx.cli("export", "htp", "--help").stdout.replace("\n", " ")
    for arguments in (("--model", "tiny/bert", "out"), ("out", "--opset", "17", "-m", "x"), ("--no-such-option",), ()):
        done = without_optimum_onnx.cli("export", "htp", *arguments, check=False)
        assert done.returncode == 1
        assert done.stderr == (
            "error: optimum-cli export htp needs optimum-onnx, which is not installed. "
            'Run `pip install "optimum-onnx[onnxruntime]"`.\n'
        )


def test_files_are_read_stamped_and_verified_without_optimum_onnx(
    without_optimum_onnx, exported, model_folder, tmp_path
):
    file, report = str(shutil.copy(exported("bert") / "model.onnx", tmp_path)), str(tmp_path / "report.md")
    cli = without_optimum_onnx.cli
    assert "tiny/bert" in cli("htp", "info", file).stdout
    assert ": ok: " in cli("htp", "verify", file).stdout
    assert cli("htp", "report", file, "-o", report).stdout.strip() == report
    assert "keys removed" in cli("htp", "strip", file).stdout
    assert "tiny/bert" in cli("htp", "inject", file, "--model", "tiny/bert").stdout
    assert "text-classification" in cli("htp", "inject", file, "--model", str(model_folder("bert"))).stdout


def test_auto_classes_accept_files_without_optimum_onnx(without_optimum_onnx, exported):
    file = str(exported("bert") / "model.onnx")
    code = f"""
from transformers import AutoConfig, AutoTokenizer, pipeline
print(type(AutoConfig.from_pretrained({file!r})).__name__, type(AutoTokenizer.from_pretrained({file!r})).__name__)
from optimum_htp import HFHubConfigLoader, HTPExporter, OptimumONNXModel
print(HFHubConfigLoader().load_from_onnx({file!r})[0].model_type)
for call in (
    lambda: OptimumONNXModel.from_onnx({file!r}),
    lambda: pipeline(model={file!r}),
    lambda: HTPExporter().export("tiny/bert", "out", engine="optimum"),
):
    try:
        call()
    except ImportError as error:
        print(type(error).__name__, error)
"""
    done = without_optimum_onnx.run(code).stdout.splitlines()
    assert (done[0].removesuffix("Fast"), done[1]) == ("BertConfig BertTokenizer", "bert")
    assert [line.split()[0] for line in done[2:]] == ["MissingDependencyError"] * 3
    is_newest = metadata.version("transformers").startswith("5.")  # an install of all requirements would replace it
    command = '--no-deps "optimum>=2.3" optimum-onnx &&' if is_newest else '"optimum-onnx[onnxruntime]"'
    assert all(f"pip install {command}" in line for line in done[2:])


@one_engine
def test_broken_optimum_onnx_is_reported_with_the_reason(taken_apart, exported):
    broken = taken_apart.site_packages / "optimum" / "exporters" / "onnx" / "__init__.py"
    broken.write_text("raise ImportError('cannot import name \\'Gone\\' from \\'transformers\\'')")
    assert "export" in taken_apart.cli("--help").stdout
    done = taken_apart.cli("export", "htp", "--model", "tiny/bert", "out", check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"installed ({metadata.version('optimum-onnx')}), but cannot be imported with optimum" in done.stderr
    assert "'Gone'" in done.stderr


def test_broken_dependency_below_lazy_modules_is_reported(taken_apart, exported):
    broken = taken_apart.site_packages / "torchvision"
    broken.mkdir()
    broken.joinpath("__init__.py").write_text("import torch\ntorch.library.register_fake('torchvision::nms')(print)")
    noted = taken_apart.site_packages / "torchvision-0.28.0.dist-info"
    noted.mkdir()
    noted.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.28.0\n")
    noted.joinpath("RECORD").write_text("torchvision/__init__.py,,\n")
    done = taken_apart.cli("export", "htp", "--model", "tiny/bert", "out", check=False)
    said = done.stderr.splitlines()[-1]
    assert "cannot be imported: torchvision 0.28.0 fails with RuntimeError: operator torchvision::nms does not" in said
    assert "Could not import module" not in said
    assert "--force-reinstall" not in said
    assert "torchvision 0.28.0 fails with" in taken_apart.cli("htp", "env", check=False).stdout
