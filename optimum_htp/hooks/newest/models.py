"""Breaks inside models: attention masks, experts in one tensor, the mask of Moonshine's decoder."""

from __future__ import annotations

import functools
import inspect
from types import ModuleType
from typing import Any, Final

from optimum_htp.hooks.newest.breaks import bridges, mentions
from optimum_htp.hooks.patching import Call, replace_attribute, wrap_attribute

# optimum-onnx's replacements for the forward of classes, and these classes.
_REPLACED: Final = {
    "qwen3_moe_forward_patched": "Qwen3MoeSparseMoeBlock",
    "gpt_oss_forward": "GptOssExperts",
}


@bridges("optimum.exporters.onnx.model_patcher")
def experts_in_one_tensor(module: ModuleType) -> bool:
    """Layers of experts have one tensor for all experts, and code that cannot be traced.

    optimum-onnx traces functions in their place, which read the experts one by one. So the layer keeps its own
    forward, and one function for all architectures traces its experts.
    Obsolete once optimum-onnx traces such layers; transformers marks them with `use_experts_implementation`.
    """
    try:
        from transformers.integrations import moe
    except ImportError:
        return False
    if not hasattr(moe, "use_experts_implementation") or mentions(module.ModelPatcher.__init__, "top_k_index"):
        return False
    for name, owner in _REPLACED.items():
        if hasattr(module, name) and hasattr(module, owner):
            replace_attribute(module, name, vars(getattr(module, owner))["forward"])
    wrap_attribute(module.ModelPatcher, "patch_ops", _hook_patch_ops)
    wrap_attribute(module.ModelPatcher, "restore_ops", _hook_restore_ops)
    return True


def _hook_patch_ops(call: Call) -> Any:
    for layer in _layers(call.args[0]):
        layer.forward = functools.partial(_traceable_experts, layer)
    return call.pass_on()


def _hook_restore_ops(call: Call) -> Any:
    for layer in _layers(call.args[0]):
        vars(layer).pop("forward", None)
    return call.pass_on()


def _layers(patcher: Any) -> list[Any]:
    modules: list[Any] = list(getattr(patcher._model, "modules", list)())
    return [item for item in modules if hasattr(item, "_is_expert_parallel") and hasattr(item, "down_proj")]


def _traceable_experts(layer: Any, hidden_states: Any, top_k_index: Any, top_k_weights: Any) -> Any:
    """Compute each expert on its selected tokens. Tracing does not fix their number."""
    import torch

    first = "gate_up_proj" if layer.has_gate else "up_proj"
    result = torch.zeros_like(hidden_states)
    for expert in range(layer.down_proj.shape[0]):
        token, choice = torch.where(top_k_index == expert)
        states = _linear(layer, first, expert, hidden_states[token])
        states = layer._apply_gate(states) if layer.has_gate else layer.act_fn(states)
        states = _linear(layer, "down_proj", expert, states)
        if layer.has_post_expert_norm:
            states = layer.post_expert_norm(states)
        states = states * top_k_weights[token, choice].unsqueeze(-1)
        result = result.index_add(0, token, states.to(result.dtype))
    return result


def _linear(layer: Any, name: str, expert: int, states: Any) -> Any:
    from torch.nn.functional import linear

    weight = getattr(layer, name)[expert]
    bias = getattr(layer, f"{name}_bias")[expert] if layer.has_bias else None
    return linear(states, weight.t() if layer.is_transposed else weight, bias)


@bridges("optimum.exporters.onnx.model_patcher")
def masks_without_cache_position(module: ModuleType) -> bool:
    """Functions that make masks get `q_length` and `q_offset` in place of `cache_position`.

    optimum-onnx replaces them during an export, because those of transformers 4 use vmap, which cannot be traced.
    Those of transformers 5 do not use vmap, so they stay.
    Obsolete once optimum-onnx replaces them with transformers 4 only.
    """
    own, theirs = getattr(module, "sdpa_mask_without_vmap", None), getattr(module, "sdpa_mask", None)
    if own is None or theirs is None or "q_length" in inspect.signature(own).parameters:
        return False
    if "q_length" not in inspect.signature(theirs).parameters:
        return False
    replace_attribute(module, "sdpa_mask_without_vmap", theirs)
    replace_attribute(module, "eager_mask_without_vmap", module.eager_mask)
    return True


@bridges("optimum.exporters.onnx.model_patcher")
def boolean_masks_in_half_precision(module: ModuleType) -> bool:
    """Attention masks are boolean, and PyTorch's exporter writes them as float32 into half-precision files.

    The masks of transformers 4 had the data type of the model. So a boolean mask gets this type during the export of a
    model that is not float32.
    Obsolete once torch.onnx writes boolean masks in the data type of the query.
    """
    theirs = getattr(module, "sdpa_mask", None)
    if theirs is None or "q_length" not in inspect.signature(theirs).parameters:
        return False
    specs = [spec for spec in module.UNSUPPORTED_OPS_PATCHING_SPEC if spec.name == "scaled_dot_product_attention"]
    for spec in specs:
        replace_attribute(spec, "custom_op", _with_typed_mask(spec.custom_op))
    return bool(specs)


def _with_typed_mask(attention: Any) -> Any:
    import torch

    @functools.wraps(attention)
    def typed(query: Any, key: Any, value: Any, attn_mask: Any = None, *args: Any, **kwargs: Any) -> Any:
        if attn_mask is not None and attn_mask.dtype is torch.bool and query.dtype is not torch.float32:
            lowest = torch.full((), torch.finfo(query.dtype).min, dtype=query.dtype, device=query.device)
            attn_mask = torch.where(attn_mask, torch.zeros_like(lowest), lowest)
        return attention(query, key, value, attn_mask, *args, **kwargs)

    return typed


_STRIDE: Final = 64 * 3 * 2  # of the three convolutions before the encoder
_SAVED: Final = "_optimum_htp_moonshine"


@bridges("optimum.exporters.onnx.model_patcher")
def mask_in_encoder_outputs(module: ModuleType) -> bool:
    """Moonshine's decoder takes the mask of its encoder from the encoder's outputs.

    An exported decoder gets only the encoder's hidden states and the mask of the audio. So the mask is shortened as in
    the encoder.
    Obsolete once MoonshineModelPatcher does this.
    """
    try:
        from transformers.models.moonshine.modeling_moonshine import MoonshineEncoderModelOutput
    except ImportError:
        return False
    patcher = getattr(module, "MoonshineModelPatcher", None)
    known = "attention_mask" in MoonshineEncoderModelOutput.__dataclass_fields__
    if patcher is None or not known or mentions(patcher.__enter__, "encoder_outputs"):
        return False
    wrap_attribute(patcher, "__enter__", _hook_moonshine_enter)
    wrap_attribute(patcher, "__exit__", _hook_moonshine_exit)
    return True


def _hook_moonshine_enter(call: Call) -> Any:
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


def _hook_moonshine_exit(call: Call) -> Any:
    inner = vars(call.args[0]).pop(_SAVED, None)
    if inner is not None:
        vars(inner).pop("forward", None)
    return call.pass_on()
