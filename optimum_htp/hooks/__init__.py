"""Installs hooks in modules of Optimum, transformers and sentence_transformers, and removes them.

Every hook checks its arguments and passes on, unchanged, any call that does not concern an ONNX file with a record.
Each module of this package wraps one thing. It is imported right after the module that it hooks.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Final

from optimum_htp.hooks.newest import BRIDGED, bridge, providing
from optimum_htp.libraries.preprocessors import LOADERS

__all__ = ["HOOKS", "hooked_modules", "importing", "install", "uninstall"]

HOOKS: Final[Mapping[str, str]] = {
    "optimum.commands.onnxruntime.quantize": "quantize_command",
    "optimum.onnxruntime.modeling": "loading",
    "optimum.onnxruntime.modeling_decoder": "sessions",
    "optimum.onnxruntime.modeling_diffusion": "diffusion",
    "optimum.onnxruntime.modeling_seq2seq": "sessions",
    "optimum.onnxruntime.optimization": "optimizers",
    "optimum.onnxruntime.quantization": "optimizers",
    "sentence_transformers.SentenceTransformer": "sentence_transformers",
    "sentence_transformers.backend.utils": "sentence_transformers",
    "sentence_transformers.base.model": "sentence_transformers",
    "sentence_transformers.cross_encoder.CrossEncoder": "sentence_transformers",
    "sentence_transformers.util.file_io": "sentence_transformers",
    "transformers.exporters.auto": "export_backend",
    "transformers.exporters.base": "exported_models",
    "transformers.pipelines": "pipelines",
    **dict.fromkeys(LOADERS, "auto_classes"),
}
"""The module of this package that hooks a module of another library, by the name of the other module."""
_HOOKED: Final = frozenset({*HOOKS, *BRIDGED})


def hooked_modules() -> Collection[str]:
    """Return the names of the modules that get hooks."""
    return _HOOKED


def importing(name: str) -> AbstractContextManager[None]:
    """Return the context in which a hooked module is imported."""
    return providing(name)


def install(module: ModuleType) -> None:
    """Install the hooks of a module. Does nothing if they are installed."""
    bridge(module)
    if (name := HOOKS.get(module.__name__)) is not None:
        importlib.import_module(f"{__name__}.{name}").install(module)


def uninstall() -> None:
    """Remove all hooks."""
    patching = sys.modules.get(f"{__name__}.patching")
    if patching is not None:
        patching.restore_all()
    backend = sys.modules.get(f"{__name__}.export_backend")
    if backend is not None:
        backend.uninstall()
