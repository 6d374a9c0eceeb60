"""Bridges are installed at the import of Optimum's modules, in any order, and are removed again."""

from __future__ import annotations

import sys

import pytest
import transformers

if int(transformers.__version__.partition(".")[0]) < 5:
    pytest.skip("transformers 4 needs no bridge", allow_module_level=True)


from tests.conftest import run_python

IMPORTS = """
import sys, {modules}
assert sys.modules["{modules}".split()[-1]].__doc__ != 0  # its first use removes added names at the latest
import transformers, transformers.utils, transformers.modeling_utils
assert not hasattr(transformers, "CLIPFeatureExtractor")
assert not hasattr(transformers.modeling_utils, "get_parameter_dtype")
assert not hasattr(transformers.utils, "is_offline_mode")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "modules",
    [
        "optimum_htp, optimum.exporters.onnx._traceable_decorator",
        "optimum_htp, optimum.onnxruntime.modeling_diffusion",
        "optimum.exporters.onnx.convert",
        "optimum.exporters.onnx.model_patcher",
        "optimum.exporters.onnx.__main__",
        "optimum.onnxruntime.modeling",
        "optimum.onnxruntime.modeling_decoder",
        "optimum.onnxruntime.modeling_seq2seq",
        "optimum.onnxruntime.modeling_diffusion",
        "optimum.onnxruntime.optimization",
        "optimum.onnxruntime.quantization",
        "optimum.onnxruntime.pipelines",
        "optimum.pipelines",
    ],
)
def test_every_module_can_be_the_first_import(modules):
    assert "optimum-htp" not in run_python(IMPORTS.format(modules=modules), python=sys.executable).stderr


def test_exporter_can_be_imported_right_after_this_package():
    done = run_python(IMPORTS.format(modules="optimum_htp, optimum.exporters.onnx.convert"))
    assert "optimum-htp" not in done.stderr


OFF = """
import optimum_htp, torch
optimum_htp.deactivate()
import transformers
before = dict(vars(transformers.PretrainedConfig))
optimum_htp.activate()
import optimum.onnxruntime.modeling_decoder as decoder
assert dict(vars(transformers.PretrainedConfig)) != before
forward = decoder.ORTModelForCausalLM.forward
optimum_htp.deactivate()
assert dict(vars(transformers.PretrainedConfig)) == before
assert decoder.ORTModelForCausalLM.forward is not forward
assert not hasattr(decoder.ORTModelForCausalLM, "is_remote_code")
"""


def test_deactivate_restores_everything():
    run_python(OFF, forked=True)


def test_disable_variable_disables_bridges():
    code = "import optimum.onnxruntime.modeling as m; print(hasattr(m.ORTModel, 'is_remote_code'))"
    done = run_python(code, check=False, OPTIMUM_HTP_DISABLE="1")
    assert "ImportError: cannot import name" in done.stderr or done.stdout.split() == ["False"]


def test_error_in_a_bridge_logs_one_warning():
    code = """
import logging
import optimum_htp.hooks.newest.breaks as breaks
def broken(*_): raise KeyError("a fault of ours")
breaks.apply = broken
import optimum.onnxruntime.modeling, optimum.onnxruntime.modeling_decoder
"""
    done = run_python(code, forked=True)
    assert done.stderr.count("a fault of ours") == 1
    assert "Traceback" not in done.stderr


def test_nothing_is_imported_without_optimum():
    run_python(
        "import sys, torch, transformers\nfrom transformers import BertModel\n"
        "assert 'optimum_htp.hooks.newest.breaks' not in sys.modules",
        forked=True,
    )
