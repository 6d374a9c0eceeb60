"""The break in Moonshine's decoder: it reads the mask from the encoder's outputs."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any, Final

from optimum_htp.hooks.newest.breaks import mends, mentions
from optimum_htp.hooks.patching import Call, wrap_attribute

_STRIDE: Final = 64 * 3 * 2  # of the three convolutions in front of the encoder
_SAVED: Final = "_optimum_htp_moonshine"


@mends("optimum.exporters.onnx.model_patcher")
def mask_in_encoder_outputs(module: ModuleType) -> bool:
    """Moonshine's decoder takes the mask of its encoder from the encoder's outputs.

    An exported decoder gets only the encoder's hidden states and the mask of the sound. So the mask is shortened as
    the encoder does it.
    Needless once MoonshineModelPatcher does that.
    """
    try:
        from transformers.models.moonshine.modeling_moonshine import MoonshineEncoderModelOutput
    except ImportError:
        return False
    patcher = getattr(module, "MoonshineModelPatcher", None)
    known = "attention_mask" in MoonshineEncoderModelOutput.__dataclass_fields__
    if patcher is None or not known or mentions(patcher.__enter__, "encoder_outputs"):
        return False
    wrap_attribute(patcher, "__enter__", _entering)
    wrap_attribute(patcher, "__exit__", _leaving)
    return True


def _entering(call: Call) -> Any:
    patcher = call.args[0]
    inner = getattr(patcher._model, "model", None)
    if inner is not None:
        original = inner.forward

        @functools.wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Any:
            outputs, mask = kwargs.get("encoder_outputs"), kwargs.get("attention_mask")
            if outputs is not None and not hasattr(outputs, "attention_mask"):
                length = outputs.last_hidden_state.shape[1]
                outputs.attention_mask = mask[..., ::_STRIDE][..., :length] if mask is not None else None
            return original(*args, **kwargs)

        inner.forward = forward
        setattr(patcher, _SAVED, inner)
    return call.pass_on()


def _leaving(call: Call) -> Any:
    inner = vars(call.args[0]).pop(_SAVED, None)
    if inner is not None:
        vars(inner).pop("forward", None)
    return call.pass_on()
