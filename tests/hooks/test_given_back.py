"""Hooked modules and functions keep their form, and deactivate() removes all wrappers."""

from __future__ import annotations

import ast
import sys

import pytest

from tests.conftest import run_python
from tests.support.marks import slowly

pytest.importorskip("diffusers")
pytest.importorskip("sentence_transformers")


def test_wrapped_functions_keep_their_signatures():
    code = """
import inspect, optimum_htp
from transformers import AutoTokenizer, GenerationConfig
def signatures():
    from transformers import pipeline
    return list(map(inspect.signature, (AutoTokenizer.from_pretrained, GenerationConfig.from_pretrained, pipeline)))
hooked = signatures()
optimum_htp.deactivate()
assert hooked == signatures()
"""
    run_python(code, forked=True)


IMPORTS = {
    "pipelines last": "import transformers, optimum.onnxruntime.modeling, transformers.pipelines",
    "names bound behind our backs": "from transformers import pipeline\nimport optimum.onnxruntime.pipelines",
    "optimum first": "from optimum.onnxruntime import pipeline, ORTDiffusionPipeline, ORTOptimizer, ORTQuantizer",
    "sentence_transformers": "import sentence_transformers, sentence_transformers.util.file_io",
    "everything before us": "import os\nos.environ['TORCH_DEVICE_BACKEND_AUTOLOAD'] = '0'\n"
    "import optimum.onnxruntime.pipelines, sentence_transformers\nfrom transformers import pipeline",
}
OURS = """
import sys, types
def ours():
    '''Every public name of the libraries that leads to an object of ours.'''
    found = set()
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in ("transformers", "optimum", "sentence_transformers", "diffusers"):
            continue
        for key, value in list(vars(module).items()):
            members = {key: value}
            if isinstance(value, type) and value.__module__ == name:
                members = {f"{key}.{one}": attribute for one, attribute in vars(value).items()}
            for path, member in members.items():
                function = getattr(member, "__func__", member)
                code = getattr(function, "__code__", None)
                if isinstance(function, types.FunctionType) and "optimum_htp" in code.co_filename.split("tests")[0]:
                    found.add(f"{name}.{path}")
    return found
"""

WITH_ALL_LIBRARIES = [name for name, code in IMPORTS.items() if "sentence" in code or "Diffusion" in code]


@pytest.mark.parametrize(
    "imported", [*(name for name in IMPORTS if name not in WITH_ALL_LIBRARIES), *slowly(*WITH_ALL_LIBRARIES)]
)
def test_deactivate_removes_all_wrappers(imported):
    code = f"""
{IMPORTS[imported]}
{OURS}
import optimum_htp
before = ours()
optimum_htp.deactivate()
left = ours()
optimum_htp.activate()
again = ours()
optimum_htp.deactivate()
print([sorted(before), sorted(left), sorted(again), sorted(ours())])
"""
    how = {"python": sys.executable} if imported in WITH_ALL_LIBRARIES else {"forked": True}
    before, left, again, last = ast.literal_eval(run_python(code, **how).stdout.splitlines()[-1])
    assert before
    assert left == last == []
    assert again == before


@pytest.mark.slow
def test_kept_wrapper_passes_calls_on_after_deactivate(exported):
    code = f"""
import optimum_htp
from transformers import AutoTokenizer
from optimum.onnxruntime import ORTModelForSequenceClassification
kept = AutoTokenizer.from_pretrained
optimum_htp.deactivate()
try:
    kept({str(exported("bert") / "model.onnx")!r})
except Exception as error:
    print(type(error).__module__)
optimum_htp.activate()
print(type(kept({str(exported("bert") / "model.onnx")!r})).__name__)
"""
    off, on = run_python(code, forked=True).stdout.split()
    assert not off.startswith("optimum_htp")
    assert on.startswith("BertTokenizer")


def test_wrapper_around_our_wrapper_stays():
    code = """
import functools, optimum_htp
from transformers import AutoConfig
inner = AutoConfig.from_pretrained.__func__
@functools.wraps(inner)
def theirs(*args, **kwargs):
    return inner(*args, **kwargs)
AutoConfig.from_pretrained = classmethod(theirs)
optimum_htp.deactivate()
assert AutoConfig.from_pretrained.__func__ is theirs
optimum_htp.activate()
assert AutoConfig.from_pretrained.__func__ is theirs
"""
    run_python(code, forked=True)


HOOKED = "transformers.models.auto.configuration_auto"


def test_hooked_module_can_be_inspected_before_its_import():
    code = f"""
import importlib.util, inspect, linecache, torch
import transformers.models.auto
spec = importlib.util.find_spec({HOOKED!r})
loader = spec.loader
assert {HOOKED!r} not in __import__("sys").modules
assert "class AutoConfig" in loader.get_source({HOOKED!r})
assert loader.get_code({HOOKED!r}).co_filename == spec.origin == loader.get_filename({HOOKED!r})
assert loader.is_package({HOOKED!r}) is False and loader.path == spec.origin
assert b"AutoConfig" in loader.get_data(spec.origin)
assert loader.get_resource_reader({HOOKED!r}) is not None
assert linecache.getlines("none", {{"__name__": {HOOKED!r}, "__loader__": loader}})
module = importlib.import_module({HOOKED!r})
assert type(module.__loader__) is type(module.__spec__.loader) is type(__import__("json").__loader__)
assert "pretrained_model_name_or_path" in inspect.getsource(module.AutoConfig)
"""
    run_python(code, forked=True)


def test_hooked_module_can_be_run_as_a_script():
    done = run_python(
        f"import sys, runpy, torch; sys.argv = ['x']; print(len(runpy.run_module({HOOKED!r}, run_name='x')))",
        forked=True,
    )
    assert int(done.stdout.splitlines()[-1]) > 10


def test_hooked_module_can_be_reloaded():
    code = f"""
import importlib, torch, {HOOKED} as module
importlib.reload(module)
print(module.AutoConfig.from_pretrained.__func__.__code__.co_filename)
"""
    assert "patching.py" in run_python(code, forked=True).stdout
