"""Optimum's `ORTModel.from_pretrained`: it loads our files, and its search finds exactly those of the model."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.hooks.patching import wrap_attribute
from optimum_htp.loads import files_being_loaded, may_be_ours, names_a_file

if TYPE_CHECKING:
    from optimum_htp.onnx_repos import OnnxRepo

__all__ = ["FAILURES", "install"]

FAILURES: Final = (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError)
"""What loaders raise for a repo without configs; a tokenizer without files fails as it happens to."""

_MODELING: Final = "optimum.onnxruntime.modeling"
# The modules that hold Optimum's search for files under a global name of their own.
_SEARCH: Final = "find_files_matching_pattern"
_SEARCHING: Final = (
    "optimum.utils.file_utils",
    _MODELING,
    "optimum.onnxruntime.modeling_decoder",
    "optimum.onnxruntime.modeling_seq2seq",
)


def install(module: ModuleType) -> None:
    """Hook into the module that defines `ORTModel`."""
    wrap_attribute(module.ORTModel, "from_pretrained", _loading_files)
    wrap_attribute(module.ORTModel, "_cached_file", _serving_files)
    for searching in filter(None, map(sys.modules.get, _SEARCHING)):
        if hasattr(searching, _SEARCH):
            wrap_attribute(searching, _SEARCH, _finding_files)


def _loading_files(function: Any) -> Any:
    signature = inspect.signature(function)

    @functools.wraps(function)
    def from_pretrained(cls: Any, model_id: Any, *args: Any, **kwargs: Any) -> Any:
        arguments = dict(signature.bind(cls, model_id, *args, **kwargs).arguments)
        options = {**arguments, **arguments.pop("kwargs", {})}
        for name in ("cls", "model_id", "kwargs"):
            options.pop(name, None)
        resolved: tuple[str, ...] = ()  # the options that have played their part
        path = _stamped_file(model_id, options)
        if path is None:
            try:
                return function(cls, model_id, *args, **kwargs)
            except FAILURES:
                repo = _onnx_repo(model_id, options)
                if repo is None:
                    raise
            path = repo.fetch()
            resolved = ("subfolder", "file_name", "revision", "force_download")
        elif not names_a_file(model_id):  # the folder has been looked into
            resolved = ("subfolder", "file_name")
        from optimum_htp.loader import load

        return load(cls, path, **{name: value for name, value in options.items() if name not in resolved})

    return from_pretrained


def _stamped_file(model_id: Any, options: Mapping[str, Any]) -> Path | None:
    if not may_be_ours(model_id, options.get("subfolder")):
        return None
    from optimum_htp.loader import stamped_file

    return stamped_file(model_id, options)


def _onnx_repo(model_id: Any, options: Mapping[str, Any]) -> OnnxRepo | None:
    from optimum_htp.onnx_repos import find_onnx_repo

    return find_onnx_repo(model_id, options)


def _serving_files(function: Any) -> Any:
    @functools.wraps(function)
    def _cached_file(path_or_repo_id: Any, filename: str, subfolder: str = "", *args: Any, **kwargs: Any) -> Any:
        files = files_being_loaded.get()
        if files is None:
            return function(path_or_repo_id, filename, subfolder, *args, **kwargs)
        return files.by_name[filename if subfolder in ("", ".") else f"{subfolder}/{filename}"]

    return _cached_file


def _finding_files(function: Any) -> Any:
    @functools.wraps(function)
    def find_files_matching_pattern(*args: Any, **kwargs: Any) -> Any:
        files = files_being_loaded.get()
        if files is None:
            return function(*args, **kwargs)
        return [files.folder / name for name in files.by_name]

    return find_files_matching_pattern
