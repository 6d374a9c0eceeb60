"""transformers' `ExportedModel.from_pretrained`: it loads our files."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from optimum_htp.hooks.dispatch import Answer, asked
from optimum_htp.hooks.patching import Call, wrap_attribute

__all__ = ["install"]


def install(module: ModuleType) -> None:
    """Hook into the module that defines `ExportedModel`."""
    wrap_attribute(module.ExportedModel, "from_pretrained", _loading_files)


def _loading_files(call: Call) -> Any:
    from optimum_htp.loading.exported_models import exported_file, load

    found = asked(call, bare=True, local=exported_file)
    if isinstance(found, Answer):
        return found.result
    return load(call.args[0], found.fetched(), **found.options)
