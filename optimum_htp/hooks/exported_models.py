"""Hooks transformers' `ExportedModel.from_pretrained` to load ONNX files with a record."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from optimum_htp.hooks.dispatch import Answer, file_or_result
from optimum_htp.hooks.patching import Call, wrap_attribute

__all__ = ["install"]


def install(module: ModuleType) -> None:
    """Hook into the module that defines `ExportedModel`."""
    wrap_attribute(module.ExportedModel, "from_pretrained", _hook_from_pretrained)


def _hook_from_pretrained(call: Call) -> Any:
    from optimum_htp.loading.exported_models import exported_file, load

    found = file_or_result(call, bare=True, local=exported_file)
    if isinstance(found, Answer):
        return found.result
    return load(call.args[0], found.fetched(), **found.options)
