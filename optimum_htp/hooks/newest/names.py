"""Names that modules of Optimum import and transformers 5 has moved or removed.

Each is lent only while that module is imported, so nobody else sees it.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from optimum_htp.hooks.newest.breaks import lends, mends, mentions
from optimum_htp.hooks.patching import Call, wrap_attribute, wrap_function

_DECORATOR = "optimum.exporters.onnx._traceable_decorator"


@lends(_DECORATOR, missing=("transformers.utils.generic", "_CAN_RECORD_REGISTRY"))
def moved_output_registry() -> Any:
    """`_CAN_RECORD_REGISTRY` moved to `transformers.utils.output_capturing`.

    Needless once optimum-onnx imports it from there (its newest commit does).
    """
    from transformers.utils.output_capturing import _CAN_RECORD_REGISTRY

    return _CAN_RECORD_REGISTRY


@lends(_DECORATOR, missing=("transformers.utils.generic", "OutputRecorder"))
def moved_output_recorder() -> Any:
    """`OutputRecorder` moved to `transformers.utils.output_capturing`.

    Needless once optimum-onnx imports it from there (its newest commit does).
    """
    from transformers.utils.output_capturing import OutputRecorder

    return OutputRecorder


@lends("optimum.exporters.onnx.convert", missing=("transformers.modeling_utils", "get_parameter_dtype"))
def removed_parameter_dtype() -> Any:
    """`get_parameter_dtype` was removed.

    Needless once optimum-onnx reads `model.dtype` (its newest commit does).
    """
    from transformers import PreTrainedModel

    return PreTrainedModel.dtype.fget  # works on any module


@lends("optimum.onnxruntime.modeling", missing=("transformers.utils", "is_offline_mode"))
def moved_offline_mode() -> Any:
    """`is_offline_mode` moved to huggingface_hub.

    Needless once optimum-onnx imports it from there (its newest commit does).
    """
    from huggingface_hub import is_offline_mode

    return is_offline_mode


@lends("optimum.onnxruntime.modeling_seq2seq", missing=("transformers", "AutoModelForVision2Seq"))
def renamed_vision_class() -> Any:
    """`AutoModelForVision2Seq` became `AutoModelForImageTextToText`.

    Needless once optimum-onnx imports the new name (its newest commit does).
    """
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText


@lends("optimum.onnxruntime.modeling_diffusion", missing=("transformers", "CLIPFeatureExtractor"))
def renamed_clip_processor() -> Any:
    """`CLIPFeatureExtractor` became `CLIPImageProcessor`.

    Needless once optimum-onnx imports the new name; it uses it as an annotation only.
    """
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor


@mends("optimum.exporters.tasks")
def adapter_beside_a_config(module: ModuleType) -> bool:
    """A folder with a config and the weights of an adapter (LoRA) is taken for a whole model.

    transformers 4 loads the model that the adapter names, and adds the adapter; transformers 5 does so only where the
    folder has no config, and Optimum needs one.
    Needless once TasksManager.get_model_from_task, or transformers, looks for weights beside that config.
    """
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

    if not mentions(_BaseAutoModelClass.from_pretrained, "CONFIG_NAME"):
        return False
    wrap_attribute(module.TasksManager, "get_model_from_task", _adding_adapter)
    return True


@mends("optimum.utils.save_utils")
def tokenizer_made_of_nothing(module: ModuleType) -> bool:
    """`AutoTokenizer` makes an empty tokenizer for a folder that has a config and no tokenizer.

    transformers 4 raises an error. Optimum then exports the model without a tokenizer.
    Needless once maybe_load_preprocessors, or transformers, looks for the files of a tokenizer.
    """
    wrap_function(module, "maybe_load_preprocessors", _leaving_made_up_ones_out)
    return True


def _leaving_made_up_ones_out(call: Call) -> Any:
    """Answer `maybe_load_preprocessors`: without tokenizers of which the local folder they are from has no file."""
    subfolder = call.get("subfolder") or ""
    return [one for one in call.pass_on() if _has_files(getattr(one, "tokenizer", one), subfolder)]


def _has_files(tokenizer: Any, subfolder: str) -> bool:
    """Whether a tokenizer has a file in its folder; True where it needs none or is from a Hub, and for others."""
    names = {*getattr(tokenizer, "vocab_files_names", {}).values()}
    folder = Path(str(getattr(tokenizer, "name_or_path", "")), subfolder)
    if not names or not folder.is_dir():
        return True
    return any((folder / name).is_file() for name in (*names, "tokenizer_config.json", "tokenizer.json"))


def _adding_adapter(call: Call) -> Any:
    """Answer `get_model_from_task`: of such a folder, it is the base model with the adapter."""
    from optimum_htp.libraries.repo_files import base_to_load

    folder = Path(str(call.get("model_name_or_path", "")))
    base = base_to_load(folder) if folder.is_dir() else None
    if base is None:
        return call.pass_on()
    model = call.pass_on_with(call.subject, model_name_or_path=base)
    model.load_adapter(str(folder))
    return model
