"""Bridges that let optimum-onnx 0.1 work with transformers 5, which it does not know.

Each break is one function: it looks at the code that was imported, returns False where the break is absent, and
bridges it otherwise. Nothing here runs before a module of `BRIDGED` is imported, and nothing with transformers 4.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import ModuleType
from typing import Final

__all__ = ["BRIDGED", "bridge", "is_needed", "lending"]

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


def lending(name: str) -> AbstractContextManager[None]:
    """While a module of Optimum is imported, lend transformers the names that it wants and transformers lacks."""
    return _lending(name) if name in BRIDGED and is_needed() else nullcontext()


def bridge(module: ModuleType) -> None:
    """Bridge what is broken in a module of Optimum, right after its import."""
    if module.__name__ in BRIDGED and is_needed():
        importlib.import_module(f"{__name__}.breaks").apply(module)


@contextmanager
def _lending(name: str) -> Iterator[None]:
    with importlib.import_module(f"{__name__}.breaks").lent_names(name):
        yield


def is_needed() -> bool:
    """Whether transformers 5 is here: every module in `BRIDGED` imports transformers, so it is imported anyway."""
    transformers = sys.modules.get("transformers") or importlib.import_module("transformers")
    return int(str(transformers.__version__).partition(".")[0]) >= 5
