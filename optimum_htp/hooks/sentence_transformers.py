"""sentence_transformers' search for a model's files: those that a folder of ONNX files lacks are its commit's."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any, Final

from optimum_htp.hooks.patching import is_wrapped, wrap_attribute

__all__ = ["install"]

_LIBRARY: Final = "sentence_transformers"
_SEARCH: Final = "load_file_path"


def install(module: ModuleType) -> None:
    """Hook into the module that defines the function, and those that have bound it."""
    original = getattr(module, _SEARCH)
    if is_wrapped(original):
        return
    wrapper = _finding_files(original)
    for name, holder in list(sys.modules.items()):  # most of the library may have been imported before us
        if name.partition(".")[0] == _LIBRARY and vars(holder).get(_SEARCH) is original:
            wrap_attribute(holder, _SEARCH, lambda _: wrapper)


def _finding_files(function: Any) -> Any:
    signature = inspect.signature(function)

    @functools.wraps(function)
    def load_file_path(*args: Any, **kwargs: Any) -> str | None:
        found: str | None = function(*args, **kwargs)
        if found is not None:
            return found
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        folder = Path(given["model_name_or_path"])
        if not folder.is_dir() or (folder / "config.json").is_file():
            return None
        from optimum_htp.hubs.base import HubAccess
        from optimum_htp.sentence_files import sentence_file

        access = HubAccess(
            token=given.get("token"),
            cache_dir=given.get("cache_folder"),
            local_files_only=bool(given.get("local_files_only")),
        )
        name = PurePosixPath(given.get("subfolder") or "", given["filename"]).as_posix()
        path = sentence_file(folder, name, access)
        return os.fspath(path) if path is not None else None

    return load_file_path
