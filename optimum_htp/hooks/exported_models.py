"""transformers' `ExportedModel.from_pretrained`: it loads our files."""

from __future__ import annotations

from types import ModuleType
from typing import Any, Final

from optimum_htp.hooks.dispatch import FAILURES
from optimum_htp.hooks.patching import Call, wrap_attribute
from optimum_htp.loading.recognize import names_a_remote_file

__all__ = ["install"]

# The options that have played their part where a file has been found.
_RESOLVED: Final = ("subfolder", "pretrained_model_name_or_path")


def install(module: ModuleType) -> None:
    """Hook into the module that defines `ExportedModel`."""
    wrap_attribute(module.ExportedModel, "from_pretrained", _loading_files)


def _loading_files(call: Call) -> Any:
    from optimum_htp.loading.exported_models import exported_file, load
    from optimum_htp.loading.onnx_repos import find_onnx_repo

    model_id = call.subject
    path = None if names_a_remote_file(model_id) else exported_file(model_id, call.get("subfolder"))
    options = call.options()
    if options is None:
        return call.pass_on()
    resolved: tuple[str, ...] = _RESOLVED
    if path is None:
        repo = find_onnx_repo(model_id, options) if names_a_remote_file(model_id) else None
        if repo is None:
            try:
                return call.pass_on()
            except FAILURES:
                repo = find_onnx_repo(model_id, options)
                if repo is None:
                    raise
        repo.record()  # says why it cannot be loaded, before anything is fetched
        path = repo.fetch()
        resolved = (*_RESOLVED, "revision", "force_download")
    return load(call.args[0], path, **{name: value for name, value in options.items() if name not in resolved})
