"""Breaks in the masks of attention while a model is exported."""

from __future__ import annotations

import inspect
from types import ModuleType

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
