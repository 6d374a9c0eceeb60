"""Names that transformers 5 has moved, renamed or removed, and breaks in loading and in Optimum's pipelines.

transformers gets a name that Optimum imports only during the import of that module, so other code never sees it.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from optimum_htp.hooks.newest.breaks import bridges, mentions
from optimum_htp.hooks.patching import Call, replace_attribute, wrap_attribute, wrap_function

_DECORATOR: Final = "optimum.exporters.onnx._traceable_decorator"
# Arguments for PyTorch models that transformers passes and Optimum does not remove.
_OF_PYTORCH: Final = ("dtype", "code_revision", "device_map")
_PIPELINES: Final = "optimum.onnxruntime.pipelines"


@bridges(_DECORATOR, missing=("transformers.utils.generic", "_CAN_RECORD_REGISTRY"))
def moved_output_registry() -> Any:
    """`_CAN_RECORD_REGISTRY` moved to `transformers.utils.output_capturing`.

    Obsolete once optimum-onnx imports it from there (its newest commit does).
    """
    from transformers.utils.output_capturing import _CAN_RECORD_REGISTRY

    return _CAN_RECORD_REGISTRY


@bridges(_DECORATOR, missing=("transformers.utils.generic", "OutputRecorder"))
def moved_output_recorder() -> Any:
    """`OutputRecorder` moved to `transformers.utils.output_capturing`.

    Obsolete once optimum-onnx imports it from there (its newest commit does).
    """
    from transformers.utils.output_capturing import OutputRecorder

    return OutputRecorder


@bridges("optimum.exporters.onnx.convert", missing=("transformers.modeling_utils", "get_parameter_dtype"))
def removed_parameter_dtype() -> Any:
    """`get_parameter_dtype` was removed.

    Obsolete once optimum-onnx reads `model.dtype` (its newest commit does).
    """
    from transformers import PreTrainedModel

    return PreTrainedModel.dtype.fget  # works on any module


@bridges("optimum.onnxruntime.modeling", missing=("transformers.utils", "is_offline_mode"))
def moved_offline_mode() -> Any:
    """`is_offline_mode` moved to huggingface_hub.

    Obsolete once optimum-onnx imports it from there (its newest commit does).
    """
    from huggingface_hub import is_offline_mode

    return is_offline_mode


@bridges("optimum.onnxruntime.modeling_seq2seq", missing=("transformers", "AutoModelForVision2Seq"))
def renamed_vision_class() -> Any:
    """`AutoModelForVision2Seq` became `AutoModelForImageTextToText`.

    Obsolete once optimum-onnx imports the new name (its newest commit does).
    """
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText


@bridges("optimum.onnxruntime.modeling_diffusion", missing=("transformers", "CLIPFeatureExtractor"))
def renamed_clip_processor() -> Any:
    """`CLIPFeatureExtractor` became `CLIPImageProcessor`.

    Obsolete once optimum-onnx imports the new name. It is used as an annotation only.
    """
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor


@bridges("optimum.exporters.tasks")
def adapter_next_to_config(module: ModuleType) -> bool:
    """A folder with a config and the weights of an adapter (LoRA) is loaded as a whole model.

    transformers 4 loads the base model of the adapter, and adds the adapter. transformers 5 does so only if the folder
    has no config, but Optimum needs a config.
    Obsolete once TasksManager.get_model_from_task, or transformers, checks for weights next to that config.
    """
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

    if not mentions(_BaseAutoModelClass.from_pretrained, "CONFIG_NAME"):
        return False
    wrap_attribute(module.TasksManager, "get_model_from_task", _hook_get_model)
    return True


@bridges("optimum.utils.save_utils")
def empty_tokenizer(module: ModuleType) -> bool:
    """`AutoTokenizer` makes an empty tokenizer for a folder that has a config and no tokenizer.

    transformers 4 raises an error. Optimum then exports the model without a tokenizer.
    Obsolete once maybe_load_preprocessors, or transformers, checks for tokenizer files.
    """
    wrap_function(module, "maybe_load_preprocessors", _hook_load_preprocessors)
    return True


def _hook_load_preprocessors(call: Call) -> Any:
    """Hook of `maybe_load_preprocessors`: omits tokenizers whose local folder contains no tokenizer file."""
    subfolder = call.get("subfolder") or ""
    return [one for one in call.pass_on() if _has_files(getattr(one, "tokenizer", one), subfolder)]


def _has_files(tokenizer: Any, subfolder: str) -> bool:
    """Whether a tokenizer has files in its folder. True if it needs none or comes from a Hub."""
    names = {*getattr(tokenizer, "vocab_files_names", {}).values()}
    folder = Path(str(getattr(tokenizer, "name_or_path", "")), subfolder)
    if not names or not folder.is_dir():
        return True
    return any((folder / name).is_file() for name in (*names, "tokenizer_config.json", "tokenizer.json"))


def _hook_get_model(call: Call) -> Any:
    """Hook of `get_model_from_task`: returns the base model with the adapter for a folder with both."""
    from optimum_htp.libraries.repo_files import base_to_load

    folder = Path(str(call.get("model_name_or_path", "")))
    base = base_to_load(folder) if folder.is_dir() else None
    if base is None:
        return call.pass_on()
    model = call.pass_on_with(call.subject, model_name_or_path=base)
    model.load_adapter(str(folder))
    return model


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
    from transformers import pipelines

    if "framework" in inspect.signature(inspect.unwrap(pipelines.pipeline)).parameters:
        return False
    wrap_function(module, "pipeline", _hook_pipeline)
    return True


@bridges(_PIPELINES)
def renamed_image_task(module: ModuleType) -> bool:
    """The task `image-to-text` became `image-text-to-text`.

    Obsolete once Optimum's table of tasks contains it.
    """
    from transformers.pipelines import get_supported_tasks

    tasks = module.ORT_TASKS_MAPPING
    old, new = "image-to-text", "image-text-to-text"
    if old not in tasks or new in tasks or new not in get_supported_tasks():
        return False
    replace_attribute(module, "ORT_TASKS_MAPPING", {**tasks, new: tasks[old]})
    return True


def _hook_pipeline(call: Call) -> Any:
    call.kwargs.pop("framework", None)
    if call.kwargs.get("torch_dtype") in (None, "auto"):  # transformers warns about this default
        call.kwargs.pop("torch_dtype", None)
    return call.pass_on()
