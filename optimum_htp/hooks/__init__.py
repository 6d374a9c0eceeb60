"""What is put into Optimum, transformers and sentence_transformers, module by module, and how it is taken out.

Every hook looks at what it is given and passes on, untouched, what is not an ONNX file with a record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Final

from optimum_htp.hooks import auto_classes, diffusion, loading, next_steps, pipelines, sentence_transformers
from optimum_htp.hooks.patching import restore_all as uninstall

__all__ = ["HOOKS", "uninstall"]

HOOKS: Final[Mapping[str, Callable[[ModuleType], None]]] = {
    **loading.HOOKS,
    **auto_classes.HOOKS,
    **pipelines.HOOKS,
    **next_steps.HOOKS,
    **diffusion.HOOKS,
    **sentence_transformers.HOOKS,
}
"""What to install right after a module was imported."""
