"""Names that modules of Optimum import and transformers 5 has moved or removed.

Each is lent only while that module is imported, so nobody else sees it.
"""

from __future__ import annotations

from typing import Any

from optimum_htp.hooks.newest.breaks import lends

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
