"""Activation in Optimum without imports, and without breaking Optimum, each in its own process.

The environments are real: a wheel of this package is built and installed with the required packages of this
environment, and then damaged.
"""

from __future__ import annotations

import ast
import shutil
from importlib import metadata

import pytest

from optimum_htp import strip_metadata
from tests.conftest import run_python
from tests.support.installed import Environment
from tests.support.marks import slowly, without_bridges

LOAD = """
import sys
from optimum.onnxruntime import ORTModelForSequenceClassification
try:
    ORTModelForSequenceClassification.from_pretrained("no/such/model.onnx")
except Exception as error:
    print(type(error).__module__, type(error).__name__)
"""
OURS = "optimum_htp.errors OnnxFileNotFoundError"


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    environment = Environment(tmp_path_factory.mktemp("environment") / "venv")
    environment.install(wheel)
    return environment


def test_wheel_activates_itself(environment):
    assert OURS in environment.run(LOAD).stdout
    assert "htp" in environment.cli("export", "--help").stdout
    assert "info" in environment.cli("htp", "--help").stdout
    done = environment.cli("htp", "info", "none.onnx", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: There is no ONNX file at none.onnx")


def test_this_environment_is_active_too():
    assert OURS in run_python(LOAD, forked=True).stdout


@pytest.mark.parametrize(
    "first",
    [
        "import optimum.onnxruntime.modeling",
        "import optimum_htp",
        *slowly(
            "import optimum.onnxruntime.modeling_seq2seq",
            "from optimum.pipelines import pipeline",
            "import transformers, torch",
            "import optimum_htp; optimum_htp.activate(); optimum_htp.activate()",
        ),
    ],
)
def test_works_with_any_first_import(first, environment):
    assert OURS in environment.run(first + LOAD).stdout


@pytest.mark.slow
def test_disable_variable_disables_hooks(environment):
    assert OURS not in environment.run(LOAD, OPTIMUM_HTP_DISABLE="1").stdout
    assert (
        OURS
        not in environment.run("import optimum_htp; optimum_htp.activate()" + LOAD, OPTIMUM_HTP_DISABLE="1").stdout
    )
    assert OURS in environment.run(LOAD, OPTIMUM_HTP_DISABLE="0").stdout


@pytest.mark.slow
def test_import_of_the_package_activates_without_autoload(environment):
    assert OURS not in environment.run(LOAD, TORCH_DEVICE_BACKEND_AUTOLOAD="0").stdout
    assert OURS in environment.run("import optimum_htp" + LOAD, TORCH_DEVICE_BACKEND_AUTOLOAD="0").stdout
    late = "import optimum.onnxruntime.modeling_seq2seq, optimum_htp"
    assert OURS in environment.run(late + LOAD, TORCH_DEVICE_BACKEND_AUTOLOAD="0").stdout


@without_bridges
def test_deactivate_restores_everything(environment):
    code = """
import os
os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
import optimum.utils.file_utils as utils
from optimum.onnxruntime import modeling, modeling_decoder, modeling_seq2seq
def state():
    model = vars(modeling.ORTModel)
    modules = (utils, modeling, modeling_decoder, modeling_seq2seq)
    return model["from_pretrained"], model["_cached_file"], *(m.find_files_matching_pattern for m in modules)
before = state()
import optimum_htp
active = state()
assert all(a is not b for a, b in zip(before, active)), "activate changes all of them"
optimum_htp.activate()
assert state() == active, "activating twice changes nothing"
optimum_htp.deactivate(); optimum_htp.deactivate()
assert all(a is b for a, b in zip(before, state())), "deactivate gives the very same objects back"
optimum_htp.activate()
assert state()[0] is not before[0]
"""
    environment.run(code)


@without_bridges
def test_deactivating_before_optimum_is_imported():
    code = "import torch, optimum_htp; optimum_htp.deactivate()" + LOAD
    assert OURS not in run_python(code, forked=True).stdout


def test_import_of_the_package_imports_no_framework(environment):
    frameworks = ["torch", "transformers", "onnx", "onnxruntime", "optimum"]
    code = f"import optimum_htp, sys; print([name for name in {frameworks} if name in sys.modules])"
    assert environment.run(code).stdout.strip() == "[]"


def test_other_loads_import_only_light_modules(model_folder, environment):
    code = f"""
import sys
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoConfig, AutoTokenizer
AutoConfig.from_pretrained({str(model_folder("bert"))!r})
AutoTokenizer.from_pretrained({str(model_folder("bert"))!r})
print(sorted(name for name in sys.modules if name.startswith("optimum_htp.")))
"""
    hooks = ("activation", "auto_classes", "dispatch", "loading", "newest", "patching")
    packages = ("forking", "hooks", "libraries", "loading")
    libraries = ("libraries.names", "libraries.preprocessors")
    light = (*packages, *libraries, *(f"hooks.{name}" for name in hooks), "loading.recognize", "version")
    loaded = set(ast.literal_eval(environment.run(code).stdout.splitlines()[-1]))
    bridges = {name for name in loaded if name.startswith("optimum_htp.hooks.newest.")}
    assert loaded - bridges <= {f"optimum_htp.{name}" for name in light}
    assert bool(bridges) is (int(metadata.version("transformers").partition(".")[0]) >= 5)


def test_other_commands_import_only_light_modules(environment):
    code = """
import contextlib, sys
from optimum.commands.optimum_cli import main
sys.argv = ["optimum-cli", "export", "onnx", "--help"]
with contextlib.suppress(SystemExit):
    main()
print(sorted(name for name in sys.modules if name.startswith("optimum_htp.")))
"""
    found = ast.literal_eval(environment.run(code).stdout.splitlines()[-1])
    light = (
        "commands",
        "errors",
        "libraries",
        "libraries.dependencies",
        "libraries.names",
        "libraries.preprocessors",
        "masking",
        "report",
        "report.texts",
        "version",
    )
    others = [name for name in found if not name.startswith(("optimum_htp.cli", "optimum_htp.hooks"))]
    assert set(others) <= {f"optimum_htp.{name}" for name in light}


@pytest.mark.slow
def test_other_loads_make_the_same_requests_with_and_without_hooks(hub, exported, model_folder, environment, tmp_path):
    plain = tmp_path / "model.onnx"
    strip_metadata(exported("bert") / "model.onnx", plain)
    files = {"onnx/model.onnx": plain.read_bytes()}
    for path in model_folder("bert").iterdir():
        if path.suffix != ".safetensors":
            files[path.name] = path.read_bytes()
    hub.add("org/with-config", files)
    code = """
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer, pipeline
model = ORTModelForSequenceClassification.from_pretrained("org/with-config")
tokenizer = AutoTokenizer.from_pretrained("org/with-config")
classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
print(type(model), model.config.to_diff_dict().get("id2label"), model.preprocessors, classify("the cat"))
model = ORTModelForSequenceClassification.from_pretrained("org/with-config", subfolder="onnx")  # which has no config
print(model.path.name, type(model.preprocessors))
try:
    ORTModelForSequenceClassification.from_pretrained("org/with-config", file_name="test.onnx")
except Exception as error:
    print(type(error), error)
"""
    seen = []
    for switch in ("0", "1"):
        with hub.recorded() as requests:
            done = environment.run(code, OPTIMUM_HTP_DISABLE=switch, HF_HOME=str(tmp_path / switch))
        seen.append((done.stdout, sorted((request.method, request.path) for request in requests)))
    assert seen[0] == seen[1]
    assert seen[0][1]


BREAKAGES = {
    "package removed": lambda package: shutil.rmtree(package),
    "half of it removed": lambda package: [p.unlink() for p in package.rglob("*.py") if p.name != "__init__.py"],
    "only activation removed": lambda package: (package / "hooks" / "activation.py").unlink(),
    "raises at import": lambda package: (package / "__init__.py").write_text("raise RuntimeError('on purpose')"),
    "does not parse": lambda package: (package / "__init__.py").write_text("def broken(:"),
    "hook raises": lambda package: (package / "hooks" / "loading.py").write_text("raise RuntimeError('on purpose')"),
    "command line raises": lambda package: (package / "cli" / "__init__.py").write_text(
        "raise RuntimeError('on purpose')"
    ),
}

QUICK = ["raises at import"]  # the others are slow tests


@without_bridges
@pytest.mark.parametrize("breakage", [*QUICK, *slowly(*(name for name in BREAKAGES if name not in QUICK))])
def test_broken_package_does_not_break_optimum(taken_apart, breakage):
    package = taken_apart.site_packages / "optimum_htp"
    BREAKAGES[breakage](package)
    done = [
        taken_apart.run("import torch; from optimum.onnxruntime import ORTModelForCTC; print('fine')"),
        taken_apart.cli("--help"),
        taken_apart.cli("export", "onnx", "--help"),
    ]
    assert "fine" in done[0].stdout
    assert "export" in done[1].stdout
    assert "--opset" in done[2].stdout
    warnings = [one.stderr.count("optimum-htp is installed, but") for one in done]
    assert set(warnings) <= {0, 1}, [one.stderr for one in done]
    assert 1 in warnings
    assert not any("Traceback" in one.stderr for one in done)


def test_broken_loader_does_not_break_other_loads(taken_apart, model_folder):
    (taken_apart.site_packages / "optimum_htp" / "loading" / "ort_model.py").write_text(
        "raise RuntimeError('on purpose')"
    )
    code = f"""
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoConfig, AutoTokenizer, pipeline
AutoConfig.from_pretrained({str(model_folder("bert"))!r})
AutoTokenizer.from_pretrained({str(model_folder("bert"))!r})
print(pipeline("text-classification", model={str(model_folder("bert"))!r})("the cat"))
print(ORTModelForSequenceClassification.from_pretrained({str(model_folder("bert"))!r}, export=True))
"""
    done = taken_apart.run(code)
    assert "ORTModelForSequenceClassification" in done.stdout
    assert "on purpose" not in done.stdout + done.stderr


def test_broken_package_does_not_stop_a_strict_interpreter(taken_apart):
    (taken_apart.site_packages / "optimum_htp" / "__init__.py").write_text("raise RuntimeError('on purpose')")
    strict = "import warnings; warnings.simplefilter('error'); "
    code = "import optimum_htp_autoload; optimum_htp_autoload.autoload(); print('fine')"
    assert "fine" in taken_apart.run(strict + code, TORCH_DEVICE_BACKEND_AUTOLOAD="0").stdout


def test_command_line_works_without_the_autoload_module(taken_apart):
    (taken_apart.site_packages / "optimum_htp_autoload.py").unlink()
    (taken_apart.site_packages / "optimum_htp" / "__init__.py").write_text("raise RuntimeError('on purpose')")
    assert "export" in taken_apart.cli("--help").stdout


def test_activation_during_an_import_hooks_that_module_too(environment):
    code = """
import sys
AUTO = "transformers.models.auto.configuration_auto"
class ImportsUsLate:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.startswith("transformers.") and AUTO in sys.modules and "optimum_htp" not in sys.modules:
            import optimum_htp  # as PyTorch does if a module of transformers imports it first
            print(hasattr(sys.modules[AUTO], "AutoConfig"))
sys.meta_path.insert(0, ImportsUsLate)
from transformers import AutoConfig
print(AutoConfig.from_pretrained.__func__.__code__.co_filename, type(sys.modules[AUTO]).__name__)
"""
    done = environment.run(code, TORCH_DEVICE_BACKEND_AUTOLOAD="0")
    complete, file, kind = done.stdout.split()
    assert (complete, kind) == ("False", "module")
    assert file.endswith("patching.py")
    assert "optimum-htp" not in done.stderr
