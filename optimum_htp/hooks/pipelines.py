"""`transformers.pipeline`, and with it Optimum's: it takes our files, and the preprocessors of loaded models."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from types import ModuleType
from typing import Any, Final

from optimum_htp.hooks.patching import is_wrapped, wrap_attribute
from optimum_htp.loads import may_be_ours

__all__ = ["install"]

_PIPELINES: Final = "transformers.pipelines"
# Where the function that makes pipelines is bound, by modules that may have been imported before us.
_NAMES: Final = {
    _PIPELINES: "pipeline",
    "transformers": "pipeline",
    "optimum.onnxruntime.pipelines": "transformers_pipeline",
}


def install(module: ModuleType) -> None:
    """Hook into the module that defines the function, and those that have bound it."""
    original = module.pipeline
    if is_wrapped(original):
        return
    hooked = _completing(original)
    for path, name in _NAMES.items():
        holder = sys.modules.get(path)
        if holder is not None and vars(holder).get(name) is original:
            wrap_attribute(holder, name, lambda _: hooked)


def _completing(function: Any) -> Any:
    signature = inspect.signature(function)
    variadic = [one.name for one in signature.parameters.values() if one.kind is inspect.Parameter.VAR_KEYWORD]

    @functools.wraps(function)
    def pipeline(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs).arguments
        model = bound.get("model")
        if model is None or (isinstance(model, (str, os.PathLike)) and not may_be_ours(model)):
            return function(*args, **kwargs)
        from optimum_htp.pipelines import completed_arguments

        extra = {key: value for name in variadic for key, value in bound.pop(name, {}).items()}
        return function(**completed_arguments({**bound, **extra}))

    return pipeline
