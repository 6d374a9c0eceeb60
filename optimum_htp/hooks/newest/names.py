"""Names that modules of Optimum import and that transformers 5 has moved or removed.

transformers gets each name only during the import of that module, so other code never sees it.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from optimum_htp.hooks.newest.breaks import bridges, mentions, provides
from optimum_htp.hooks.patching import Call, wrap_attribute, wrap_function

_DECORATOR = "optimum.exporters.onnx._traceable_decorator"


@provides(_DECORATOR, missing=("transformers.utils.generic", "_CAN_RECORD_REGISTRY"))
def moved_output_registry() -> Any:
    """`_CAN_RECORD_REGISTRY` moved to `transformers.utils.output_capturing`.

    Obsolete once optimum-onnx imports it from there (its newest commit does).
    """
    from transformers.utils.output_capturing import _CAN_RECORD_REGISTRY

    return _CAN_RECORD_REGISTRY


@provides(_DECORATOR, missing=("transformers.utils.generic", "OutputRecorder"))
def moved_output_recorder() -> Any:
    """`OutputRecorder` moved to `transformers.utils.output_capturing`.

    Obsolete once optimum-onnx imports it from there (its newest commit does).
    """
    from transformers.utils.output_capturing import OutputRecorder

    return OutputRecorder


@provides("optimum.exporters.onnx.convert", missing=("transformers.modeling_utils", "get_parameter_dtype"))
def removed_parameter_dtype() -> Any:
    """`get_parameter_dtype` was removed.

    Obsolete once optimum-onnx reads `model.dtype` (its newest commit does).
    """
    from transformers import PreTrainedModel

    return PreTrainedModel.dtype.fget  # works on any module


@provides("optimum.onnxruntime.modeling", missing=("transformers.utils", "is_offline_mode"))
def moved_offline_mode() -> Any:
    """`is_offline_mode` moved to huggingface_hub.

    Obsolete once optimum-onnx imports it from there (its newest commit does).
    """
    from huggingface_hub import is_offline_mode

    return is_offline_mode


@provides("optimum.onnxruntime.modeling_seq2seq", missing=("transformers", "AutoModelForVision2Seq"))
def renamed_vision_class() -> Any:
    """`AutoModelForVision2Seq` became `AutoModelForImageTextToText`.

    Obsolete once optimum-onnx imports the new name (its newest commit does).
    """
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText


@provides("optimum.onnxruntime.modeling_diffusion", missing=("transformers", "CLIPFeatureExtractor"))
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
