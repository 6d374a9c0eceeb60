"""Bridges that let optimum-onnx 0.1, which supports transformers 4 only, work with transformers 5.

Each break has one function. It checks the imported code, returns False if the break is absent, and bridges it
otherwise. Nothing in this package runs before a module of `BRIDGED` is imported, and nothing runs with transformers 4.
"""

from __future__ import annotations

import importlib
import sys
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Final

__all__ = ["BRIDGED", "bridge", "is_needed", "providing"]

BRIDGED: Final = frozenset(
    {
        "optimum.exporters.onnx._traceable_decorator",
        "optimum.exporters.onnx.convert",
        "optimum.exporters.onnx.model_configs",
        "optimum.exporters.onnx.model_patcher",
        "optimum.exporters.tasks",
        "optimum.onnxruntime.modeling",
        "optimum.onnxruntime.modeling_decoder",
        "optimum.onnxruntime.modeling_diffusion",
        "optimum.onnxruntime.modeling_seq2seq",
        "optimum.onnxruntime.pipelines",
        "optimum.utils.save_utils",
    }
)
"""The modules of Optimum that need a bridge."""


def providing(name: str) -> AbstractContextManager[None]:
    """Return the context for the import of a module of Optimum. It adds missing names to transformers."""
    if name not in BRIDGED or not is_needed():
        return nullcontext()
    from optimum_htp.hooks.newest.breaks import provided_names

    return provided_names(name)


def bridge(module: ModuleType) -> None:
    """Bridge the breaks of a module of Optimum, right after its import."""
    if module.__name__ in BRIDGED and is_needed():
        from optimum_htp.hooks.newest.breaks import apply

        apply(module)


def is_needed() -> bool:
    """Whether transformers 5 is installed. Imports transformers, as every module of `BRIDGED` does anyway."""
    transformers = sys.modules.get("transformers") or importlib.import_module("transformers")
    return int(str(transformers.__version__).partition(".")[0]) >= 5
