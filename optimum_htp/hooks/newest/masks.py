"""Breaks in the masks of attention while a model is exported."""

from __future__ import annotations

import functools
import inspect
from types import ModuleType
from typing import Any

from optimum_htp.hooks.newest.breaks import mends
from optimum_htp.hooks.patching import replace_attribute


@mends("optimum.exporters.onnx.model_patcher")
def masks_without_cache_position(module: ModuleType) -> bool:
    """Functions that make masks get `q_length` and `q_offset` in place of `cache_position`.

    optimum-onnx replaces them while it exports, because those of transformers 4 use vmap, which cannot be traced.
    Those of transformers 5 do not, so they stay.
    Needless once optimum-onnx replaces them with transformers 4 only.
    """
    own, theirs = getattr(module, "sdpa_mask_without_vmap", None), getattr(module, "sdpa_mask", None)
    if own is None or theirs is None or "q_length" in inspect.signature(own).parameters:
        return False
    if "q_length" not in inspect.signature(theirs).parameters:
        return False
    replace_attribute(module, "sdpa_mask_without_vmap", theirs)
    replace_attribute(module, "eager_mask_without_vmap", module.eager_mask)
    return True


@mends("optimum.exporters.onnx.model_patcher")
def boolean_masks_in_half_precision(module: ModuleType) -> bool:
    """Masks of attention are boolean, and PyTorch's exporter writes those as float32 into files in half precision.

    The masks of transformers 4 had the model's own type. So a boolean mask gets that type while a model that is not
    float32 is exported.
    Needless once torch.onnx writes such masks in the type of the query.
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
