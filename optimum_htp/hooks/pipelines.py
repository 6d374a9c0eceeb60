"""Hooks `transformers.pipeline`, and with it Optimum's: it accepts ONNX files with a record, and loaded models."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any, Final

from optimum_htp.hooks.dispatch import FAILURES
from optimum_htp.hooks.patching import Call, wrap_function
from optimum_htp.loading.recognize import files_of_names, has_onnx, setting

__all__ = ["install"]

_ALIASES: Final = ("transformers_pipeline",)  # in Optimum's own pipelines
_LAZY: Final = "optimum_htp.loading.preprocessors"


def install(module: ModuleType) -> None:
    """Hook into the module that defines the function, and those that have bound it."""
    wrap_function(module, "pipeline", _hook_pipeline, _ALIASES)


def _hook_pipeline(call: Call) -> Any:
    model, more = call.get("model"), call.get("model_kwargs")
    if has_onnx(model, more.get("subfolder") if isinstance(more, dict) else None) or _brings_preprocessors(model):
        completed = _completed(call, failed=False)
        return call.pass_on() if completed is None else call.pass_on_with(completed.pop("task", None), **completed)
    with setting(files_of_names, []):
        try:
            result = call.pass_on()
            file = next((file for name, file in files_of_names.get() or () if name == model), None)
            completed = _completed(call, file=file) if file is not None else None
            if completed is None:
                return result
        except (*FAILURES, RuntimeError):  # a RuntimeError reports a repo without a task
            completed = _completed(call, failed=True) if isinstance(model, str) else None
            if completed is None:
                raise
    return call.pass_on_with(completed.pop("task", None), **completed)


def _completed(call: Call, *, failed: bool = False, file: Path | None = None) -> dict[str, Any] | None:
    if (options := call.options()) is None:
        return None
    from optimum_htp.loading.pipelines import arguments_of_its_commit, completed_arguments

    arguments = {**({"task": call.subject} if call.subject is not None else {}), **options}
    if file is not None:
        return arguments_of_its_commit(arguments, file)
    return completed_arguments(arguments, failed=failed)


def _brings_preprocessors(model: Any) -> bool:
    """Whether this package has loaded a model. Checked without importing `loading.preprocessors`."""
    return type(getattr(model, "preprocessors", None)).__module__ == _LAZY
