"""Hooks Optimum's `ORTModel.from_pretrained` to load ONNX files with a record, and its search for files."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.hooks import sessions
from optimum_htp.hooks.dispatch import Answer, file_or_result
from optimum_htp.hooks.patching import Call, wrap_attribute, wrap_function
from optimum_htp.loading.recognize import files_being_loaded, files_of_names

if TYPE_CHECKING:
    from optimum_htp.resolve.model_files import ModelFiles

__all__ = ["install"]

# Optimum's search for files. Each module of its classes has imported the function by name.
_SEARCHING: Final = "optimum.utils.file_utils"
_SEARCH: Final = "find_files_matching_pattern"


def install(module: ModuleType) -> None:
    """Hook into the module that defines `ORTModel`."""
    wrap_attribute(module.ORTModel, "from_pretrained", _hook_from_pretrained)
    wrap_attribute(module.ORTModel, "_cached_file", _hook_cached_file)
    sessions.install(module)
    searching = sys.modules.get(_SEARCHING)
    if searching is not None and hasattr(searching, _SEARCH):
        wrap_function(searching, _SEARCH, _hook_search)


def _hook_from_pretrained(call: Call) -> Any:
    found = file_or_result(call, opens=True, bare=True)
    if isinstance(found, Answer):
        return _completed(found.result, call)
    from optimum_htp.loading.ort_model import load

    file = found.fetched()
    _collect(call, file)
    return load(call.args[0], file, folder=found.folder, **found.options)


def _completed(model: Any, call: Call) -> Any:
    """Return a model that Optimum has loaded, completed from its file's record."""
    from optimum_htp.metadata import record_if_any

    path = getattr(getattr(model, "encoder", model), "path", None)  # each file of a model has the record
    options = call.options()
    if options is None or not isinstance(path, Path) or record_if_any(path) is None:
        return model
    from optimum_htp.loading.ort_model import complete

    _collect(call, path)
    return complete(call.args[0], model, path, options)


def _collect(call: Call, file: Path) -> None:
    if (loaded := files_of_names.get()) is not None:
        loaded.append((call.subject, file))


def _hook_cached_file(call: Call) -> Any:
    files = _files_of_load(call)
    if files is None:
        return call.pass_on()
    name, subfolder = call.get("filename"), call.get("subfolder", "")
    file = files.by_name[name if subfolder in ("", ".") else f"{subfolder}/{name}"]
    sessions.expect_session(file)
    return file


def _hook_search(call: Call) -> Any:
    files = _files_of_load(call)
    if files is None:
        return call.pass_on()
    return [files.folder / name for name in files.by_name]


def _files_of_load(call: Call) -> ModelFiles | None:
    """Return the files for a search, or None for another load that runs inside this package's load."""
    files = files_being_loaded.get()
    is_ours = files is not None and isinstance(call.subject, (str, os.PathLike)) and Path(call.subject) == files.folder
    return files if is_ours else None
