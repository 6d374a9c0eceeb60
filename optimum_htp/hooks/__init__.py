"""Installs hooks in modules of Optimum, transformers and sentence_transformers, and removes them.

Every hook checks its arguments and passes on, unchanged, any call that does not concern an ONNX file with a record.
Each module of this package wraps functions of one part of a library. It is imported right after the module that it
hooks.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Final

from optimum_htp.hooks.newest import BRIDGED, bridge
from optimum_htp.libraries.preprocessors import LOADERS

__all__ = ["HOOKED", "HOOKS", "install", "uninstall"]

HOOKS: Final[Mapping[str, str]] = {
    "optimum.commands.onnxruntime.quantize": "optimizers",
    "optimum.onnxruntime.modeling": "loading",
    "optimum.onnxruntime.modeling_decoder": "loading",
    "optimum.onnxruntime.modeling_diffusion": "diffusion",
    "optimum.onnxruntime.modeling_seq2seq": "loading",
    "optimum.onnxruntime.optimization": "optimizers",
    "optimum.onnxruntime.quantization": "optimizers",
    "sentence_transformers.SentenceTransformer": "sentence_transformers",
    "sentence_transformers.backend.utils": "sentence_transformers",
    "sentence_transformers.base.model": "sentence_transformers",
    "sentence_transformers.cross_encoder.CrossEncoder": "sentence_transformers",
    "sentence_transformers.util.file_io": "sentence_transformers",
    "transformers.exporters.auto": "exporters",
    "transformers.exporters.base": "exporters",
    "transformers.pipelines": "pipelines",
    **dict.fromkeys(LOADERS, "auto_classes"),
}
"""The module of this package that hooks a module of another library, by the name of the other module."""

HOOKED: Final = frozenset({*HOOKS, *BRIDGED})
"""The names of the modules that get hooks or bridges."""


def install(module: ModuleType) -> None:
    """Install the hooks of a module. Does nothing if they are installed."""
    bridge(module)
    if (name := HOOKS.get(module.__name__)) is not None:
        importlib.import_module(f"{__name__}.{name}").install(module)


def uninstall() -> None:
    """Remove all hooks."""
    for name, remove in (("patching", "restore_all"), ("exporters", "uninstall")):
        if (module := sys.modules.get(f"{__name__}.{name}")) is not None:
            getattr(module, remove)()
