"""The break in mixtures of experts: transformers 5 keeps all experts of a layer in one tensor."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any, Final

from optimum_htp.hooks.newest.breaks import mends, mentions
from optimum_htp.hooks.patching import Call, replace_attribute, wrap_attribute

# What optimum-onnx puts in the place of the classes' own forward, and these classes.
_REPLACED: Final = {
    "qwen3_moe_forward_patched": "Qwen3MoeSparseMoeBlock",
    "gpt_oss_forward": "GptOssExperts",
}


@mends("optimum.exporters.onnx.model_patcher")
def experts_in_one_tensor(module: ModuleType) -> bool:
    """Layers of experts have one tensor for all experts, and code that cannot be traced.

    The functions that optimum-onnx traces in their place read the experts one by one. So the layer keeps its own
    forward, and its experts are traced by one function for all architectures.
    Needless once optimum-onnx traces such layers; transformers marks them with `use_experts_implementation`.
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
    wrap_attribute(module.ModelPatcher, "patch_ops", _entering)
    wrap_attribute(module.ModelPatcher, "restore_ops", _leaving)
    return True


def _entering(call: Call) -> Any:
    for layer in _layers(call.args[0]):
        layer.forward = functools.partial(_traceable_experts, layer)
    return call.pass_on()


def _leaving(call: Call) -> Any:
    for layer in _layers(call.args[0]):
        vars(layer).pop("forward", None)
    return call.pass_on()


def _layers(patcher: Any) -> list[Any]:
    modules: list[Any] = list(getattr(patcher._model, "modules", list)())
    return [item for item in modules if hasattr(item, "_is_expert_parallel") and hasattr(item, "down_proj")]


def _traceable_experts(layer: Any, hidden_states: Any, top_k_index: Any, top_k_weights: Any) -> Any:
    """Compute each expert on the tokens that it is chosen for; their number is not fixed by tracing."""
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
