"""What is put into Optimum, transformers and sentence_transformers, module by module, and how it is taken out.

Every hook looks at what it is given and passes on, untouched, what is not an ONNX file with a record. Each module in
here wraps one thing, and is loaded right after the module that it is for.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Final

from optimum_htp.hooks.newest import BRIDGED, bridge, lending
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
"""For each module of another library the one in here whose `install` it is given to, right after its import."""
_HOOKED: Final = frozenset({*HOOKS, *BRIDGED})


def hooked_modules() -> Collection[str]:
    """Return the names of the modules that get hooks."""
    return _HOOKED


def importing(name: str) -> AbstractContextManager[None]:
    """Return the context that a hooked module is imported in."""
    return lending(name)


def install(module: ModuleType) -> None:
    """Put our hooks into a hooked module; nothing where they are."""
    bridge(module)
    if (name := HOOKS.get(module.__name__)) is not None:
        importlib.import_module(f"{__name__}.{name}").install(module)


def uninstall() -> None:
    """Give everything that was wrapped back as it was."""
    patching = sys.modules.get(f"{__name__}.patching")
    if patching is not None:
        patching.restore_all()
    backend = sys.modules.get(f"{__name__}.export_backend")
    if backend is not None:
        backend.uninstall()
