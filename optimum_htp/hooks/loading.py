"""Optimum's `ORTModel.from_pretrained`: it loads our files, and its search finds exactly those of the model."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.hooks import sessions
from optimum_htp.hooks.patching import Call, wrap_attribute, wrap_function
from optimum_htp.loading.recognize import files_being_loaded, may_be_ours, names_a_file, names_a_remote_file

if TYPE_CHECKING:
    from optimum_htp.loading.onnx_repos import OnnxRepo
    from optimum_htp.origin.model_files import ModelFiles

__all__ = ["FAILURES", "install", "onnx_repo"]

FAILURES: Final = (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError)
"""What loaders raise for a repo without configs; a tokenizer without files fails as it happens to."""

# Optimum's search for files; each module of its classes holds it under a global name of its own.
_SEARCHING: Final = "optimum.utils.file_utils"
_SEARCH: Final = "find_files_matching_pattern"


def install(module: ModuleType) -> None:
    """Hook into the module that defines `ORTModel`."""
    wrap_attribute(module.ORTModel, "from_pretrained", _loading_files)
    wrap_attribute(module.ORTModel, "_cached_file", _serving_files)
    sessions.install(module)
    searching = sys.modules.get(_SEARCHING)
    if searching is not None and hasattr(searching, _SEARCH):
        wrap_function(searching, _SEARCH, _finding_files)


def _loading_files(call: Call) -> Any:
    model_id = call.subject
    ours, remote = may_be_ours(model_id, call.get("subfolder")), names_a_remote_file(model_id)
    options = call.options() if ours or remote else None
    path = _stamped_file(model_id, options) if ours and options is not None else None
    repo = onnx_repo(model_id, options) if remote and options is not None else None
    resolved: tuple[str, ...] = ()  # the options that have played their part
    if path is None:
        if repo is None:
            try:
                return call.pass_on()
            except FAILURES:
                options = call.options()
                repo = onnx_repo(model_id, options) if options is not None else None
                if repo is None:
                    raise
        if (options or {}).get("config") is None:
            repo.record()  # says why it cannot be loaded, before anything is fetched
        path = repo.fetch()
        resolved = ("subfolder", "file_name", "revision", "force_download")
    elif not names_a_file(model_id):  # the folder has been looked into
        resolved = ("subfolder", "file_name")
    from optimum_htp.loading.ort_model import load

    return load(call.args[0], path, **{name: value for name, value in (options or {}).items() if name not in resolved})


def _stamped_file(model_id: Any, options: Mapping[str, Any]) -> Path | None:
    from optimum_htp.loading.stamped_files import stamped_file

    return stamped_file(model_id, options)


def onnx_repo(model_id: Any, options: Mapping[str, Any]) -> OnnxRepo | None:
    """Return the repo of ONNX files that a call of `from_pretrained` means; see `find_onnx_repo`."""
    from optimum_htp.loading.onnx_repos import find_onnx_repo

    return find_onnx_repo(model_id, options)


def _serving_files(call: Call) -> Any:
    files = _files_asked_for(call)
    if files is None:
        return call.pass_on()
    name, subfolder = call.get("filename"), call.get("subfolder", "")
    file = files.by_name[name if subfolder in ("", ".") else f"{subfolder}/{name}"]
    sessions.expect_session(file)
    return file


def _finding_files(call: Call) -> Any:
    files = _files_asked_for(call)
    if files is None:
        return call.pass_on()
    return [files.folder / name for name in files.by_name]


def _files_asked_for(call: Call) -> ModelFiles | None:
    """Return the files that a search is to find; None for that of another load, which runs inside of one of ours."""
    files = files_being_loaded.get()
    is_ours = files is not None and isinstance(call.subject, (str, os.PathLike)) and Path(call.subject) == files.folder
    return files if is_ours else None
