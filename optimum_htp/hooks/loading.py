"""Hooks Optimum's `ORTModel.from_pretrained` to load ONNX files with a record, its search for files and its sessions.

A load maps weights and opens sessions in parallel. While any load of this package runs, another class replaces
`InferenceSession` in Optimum's modules. In threads without a load, it behaves like the original class.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.forking import ForkSafeLock
from optimum_htp.hooks.dispatch import Answer, file_or_result
from optimum_htp.hooks.patching import Call, classes_of, wrap_attribute, wrap_function
from optimum_htp.loading.recognize import files_being_loaded, files_of_names, setting

if TYPE_CHECKING:
    from optimum_htp.loading.in_parallel import SessionOpener
    from optimum_htp.resolve.model_files import ModelFiles

__all__ = ["install", "opening_sessions"]

# Optimum's search for files. Each module of its classes has imported the function by name.
_SEARCHING: Final = "optimum.utils.file_utils"
_SEARCH: Final = "find_files_matching_pattern"
_SESSION: Final = "InferenceSession"
_LOAD: Final = "_from_pretrained"
_MODULES: Final = tuple(
    f"optimum.onnxruntime.{name}"
    for name in ("modeling", "modeling_decoder", "modeling_seq2seq", "modeling_diffusion")
)

_opener: Final[ContextVar[SessionOpener | None]] = ContextVar("optimum_htp_opener", default=None)
_lock: Final = ForkSafeLock()
_loads = 0
_replaced: Final[list[tuple[ModuleType, Any, Any]]] = []


def install(module: ModuleType) -> None:
    """Hook into a module that defines `ORTModel` or other classes of models."""
    for owner in classes_of(module):
        if _LOAD in vars(owner):
            wrap_attribute(owner, _LOAD, _hook_load)
    if not module.__name__.endswith(".modeling"):
        return
    wrap_attribute(module.ORTModel, "from_pretrained", _hook_from_pretrained)
    wrap_attribute(module.ORTModel, "_cached_file", _hook_cached_file)
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
    if (opener := _opener.get()) is not None:
        opener.expect(file)
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


def _hook_load(call: Call) -> Any:
    if files_being_loaded.get() is None:
        return call.pass_on()
    with opening_sessions():
        return call.pass_on()


@contextmanager
def opening_sessions(expected: Iterable[Path] = ()) -> Iterator[None]:
    """Create the sessions that Optimum requests in this thread. Those of the expected files open in parallel."""
    from optimum_htp.loading.in_parallel import SessionOpener

    with SessionOpener(expected) as opener, setting(_opener, opener):
        _begin()
        try:
            yield
        finally:
            _end()


def _begin() -> None:
    global _loads
    with _lock.held():
        _loads += 1
        for name in _MODULES:
            module = sys.modules.get(name)
            original = vars(module).get(_SESSION) if module is not None else None
            if module is None or not isinstance(original, type) or isinstance(original, _Replacement):
                continue
            replacement = _Replacement(_SESSION, (original,), {"__module__": original.__module__})
            _replaced.append((module, original, replacement))
            setattr(module, _SESSION, replacement)


def _end() -> None:
    global _loads
    with _lock.held():
        _loads -= 1
        while _loads == 0 and _replaced:
            module, original, replacement = _replaced.pop()
            if vars(module).get(_SESSION) is replacement:
                setattr(module, _SESSION, original)


class _Replacement(type):
    """The metaclass of the class that replaces `InferenceSession`. Calls return objects of the original class."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        original, opener = cls.__base__, _opener.get()
        if opener is None or not args or not isinstance(args[0], (str, os.PathLike)):
            return original(*args, **kwargs)  # type: ignore[misc]
        from onnxruntime import InferenceSession

        if original is not InferenceSession:  # another library has replaced the class
            return original(*args, **kwargs)  # type: ignore[misc]
        return opener.open(*args, **kwargs)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls.__base__)  # type: ignore[arg-type]

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, cls.__base__)  # type: ignore[arg-type]
