"""Breaks in Optimum's pipelines."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final

from optimum_htp.hooks.newest.breaks import bridges, mentions
from optimum_htp.hooks.patching import Call, replace_attribute, wrap_function

# Arguments for PyTorch models that transformers passes and Optimum does not remove.
_OF_PYTORCH: Final = ("dtype", "code_revision", "device_map")
_PIPELINES: Final = "optimum.onnxruntime.pipelines"


@bridges(_PIPELINES)
def renamed_model_loader(module: ModuleType) -> bool:
    """`infer_framework_load_model`, which Optimum's `pipeline` replaces, became `load_model`.

    It returns only the model, not the framework.
    Obsolete once optimum-onnx replaces `transformers.pipelines.load_model`.
    """
    from transformers import pipelines

    if hasattr(pipelines, "infer_framework_load_model") or not hasattr(pipelines, "load_model"):
        return False
    if mentions(module.patch_pipelines_to_load_ort_model, "load_model"):
        return False

    def load_model(model: Any, config: Any = None, task: str | None = None, **kwargs: Any) -> Any:
        for name in _OF_PYTORCH:
            kwargs.pop(name, None)
        return module.ort_infer_framework_load_model(model, config, task=task, **kwargs)[1]

    @contextlib.contextmanager
    def patch_pipelines_to_load_ort_model() -> Iterator[None]:
        original = pipelines.load_model
        pipelines.load_model = load_model
        try:
            yield
        finally:
            pipelines.load_model = original

    replace_attribute(module, "patch_pipelines_to_load_ort_model", patch_pipelines_to_load_ort_model)
    return True


@bridges(_PIPELINES)
def removed_framework_option(module: ModuleType) -> bool:
    """`transformers.pipeline` has no `framework`, which `optimum.pipelines.pipeline` passes.

    Obsolete once `optimum.pipelines.pipeline` does not pass it with transformers 5.
    """
    if "framework" in inspect.signature(inspect.unwrap(_pipeline_of_transformers())).parameters:
        return False
    wrap_function(module, "pipeline", _hook_pipeline)
    return True


@bridges(_PIPELINES)
def renamed_image_task(module: ModuleType) -> bool:
    """The task `image-to-text` became `image-text-to-text`.

    Obsolete once Optimum's table of tasks contains it.
    """
    tasks = module.ORT_TASKS_MAPPING
    old, new = "image-to-text", "image-text-to-text"
    if old not in tasks or new in tasks or new not in _supported_tasks():
        return False
    replace_attribute(module, "ORT_TASKS_MAPPING", {**tasks, new: tasks[old]})
    return True


def _hook_pipeline(call: Call) -> Any:
    call.kwargs.pop("framework", None)
    if call.kwargs.get("torch_dtype") in (None, "auto"):  # transformers warns about this default
        call.kwargs.pop("torch_dtype", None)
    return call.pass_on()


def _pipeline_of_transformers() -> Any:
    from transformers import pipelines

    return pipelines.pipeline


def _supported_tasks() -> list[str]:
    from transformers.pipelines import get_supported_tasks

    return list(get_supported_tasks())
