"""Optimum's `ORTOptimizer` and `ORTQuantizer`: they take our files, and what they write is stamped."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from optimum_htp.hooks.patching import wrap_attribute
from optimum_htp.loads import names_a_file

__all__ = ["install"]

_STANDARD_NAME: Final = "model.onnx"
_CONFIG: Final = "config.json"


def install(module: ModuleType) -> None:
    """Hook into the module that defines one of the classes."""
    if hasattr(module, "ORTOptimizer"):
        wrap_attribute(module.ORTOptimizer, "from_pretrained", _optimizing_files)
        wrap_attribute(module.ORTOptimizer, "optimize", _stamping)
    if hasattr(module, "ORTQuantizer"):
        wrap_attribute(module.ORTQuantizer, "from_pretrained", _quantizing_files)
        wrap_attribute(module.ORTQuantizer, "quantize", _stamping)


def _optimizing_files(function: Any) -> Any:
    @functools.wraps(function)
    def from_pretrained(cls: Any, model_or_path: Any, file_names: Sequence[str] | None = None) -> Any:
        from transformers import AutoConfig

        from optimum_htp.loader import stamped_file

        if names_a_file(model_or_path):
            path = Path(model_or_path).expanduser()
            return cls([path], config=AutoConfig.from_pretrained(path), from_ortmodel=False)
        names = list(file_names or [_STANDARD_NAME])
        if not isinstance(model_or_path, (str, os.PathLike)) or Path(model_or_path, _CONFIG).exists() or not names:
            return function(cls, model_or_path, file_names)
        if stamped_file(model_or_path, {"file_name": names[0]}) is None:
            return function(cls, model_or_path, file_names)  # Optimum's own error says it
        paths = [Path(model_or_path, name) for name in names]
        return cls(paths, config=AutoConfig.from_pretrained(paths[0]), from_ortmodel=False)

    return from_pretrained


def _quantizing_files(function: Any) -> Any:
    @functools.wraps(function)
    def from_pretrained(cls: Any, model_or_path: Any, file_name: str | None = None) -> Any:
        from transformers import AutoConfig

        from optimum_htp.loader import stamped_file

        if names_a_file(model_or_path) and file_name is None:
            path = Path(model_or_path).expanduser()
            model_or_path, file_name = path.parent, path.name
        if file_name is not None and isinstance(model_or_path, (str, os.PathLike)):
            path = Path(model_or_path, file_name)
            if stamped_file(model_or_path, {"file_name": file_name}) is not None:
                return cls(path, config=AutoConfig.from_pretrained(path))
        return function(cls, model_or_path, file_name)

    return from_pretrained


def _stamping(function: Any) -> Any:
    """Wrap `optimize` or `quantize`: behind the run, each new file gets the record of its source."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        from optimum_htp.next_steps import carry_record, suffixed

        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        folder, suffix = Path(bound.arguments["save_dir"]), bound.arguments["file_suffix"]
        result = function(self, *args, **kwargs)
        sources = self.onnx_model_path
        for source in sources if isinstance(sources, list) else [sources]:
            made = folder / suffixed(Path(source).name, suffix)
            if made.is_file():
                carry_record(Path(source), made, suffix)
        return result

    return run
