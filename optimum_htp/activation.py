"""The hooks into Optimum: what makes `ORTModel.from_pretrained("model.onnx")` ours, and what undoes it.

PyTorch calls `activate` at the end of `import torch` (see pyproject.toml), before Optimum's classes exist. So
it leaves a finder on `sys.meta_path` that waits for the one module that defines them, and vanishes then.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.util
import logging
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final

__all__ = ["activate", "deactivate"]

logger = logging.getLogger(__name__)

_MODELING: Final = "optimum.onnxruntime.modeling"
# The modules that hold Optimum's search for files under a global name of their own.
_SEARCH: Final = "find_files_matching_pattern"
_SEARCHING: Final = (
    "optimum.utils.file_utils",
    _MODELING,
    "optimum.onnxruntime.modeling_decoder",
    "optimum.onnxruntime.modeling_seq2seq",
)
_OURS: Final = "_optimum_htp_original"


def activate() -> None:
    """Make Optimum's `ORTModel` classes load `.onnx` files; nothing where that is done already.

    Does nothing where the environment variable `OPTIMUM_HTP_DISABLE` is set (to anything but 0 or nothing).
    """
    if os.environ.get("OPTIMUM_HTP_DISABLE", "0").lower() not in ("", "0", "false", "no", "off"):
        return
    module = sys.modules.get(_MODELING)
    if module is not None:
        _install(module)
    elif not any(isinstance(finder, _PostImportFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _PostImportFinder())


def deactivate() -> None:
    """Give Optimum's classes back as they were; nothing where they are."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _PostImportFinder)]
    module = sys.modules.get(_MODELING)
    model = getattr(module, "ORTModel", None)
    for name in ("from_pretrained", "_cached_file"):
        original = getattr(getattr(vars(model).get(name), "__func__", None), _OURS, None) if model else None
        if original is not None:
            setattr(model, name, original)
    for searching in filter(None, map(sys.modules.get, _SEARCHING)):
        original = getattr(getattr(searching, _SEARCH, None), _OURS, None)
        if original is not None:
            setattr(searching, _SEARCH, original)


class _PostImportFinder(importlib.abc.MetaPathFinder):
    """Installs our hooks right behind the import of the module that defines `ORTModel`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _MODELING:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _InstallingLoader(spec.loader)
        return spec


class _InstallingLoader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        try:
            _install(module)
        except Exception as error:  # noqa: BLE001 - Optimum has to load whatever is wrong with us
            logger.warning(
                "optimum-htp is installed, but cannot hook into Optimum (%s: %s), and is left out: "
                "from_pretrained does not load .onnx files.",
                type(error).__name__,
                error,
            )


def _install(module: ModuleType) -> None:
    model = module.ORTModel
    if not _is_ours(vars(model)["from_pretrained"]):
        model.from_pretrained = _loading_files(vars(model)["from_pretrained"])
        model._cached_file = _serving_files(vars(model)["_cached_file"])
    for searching in filter(None, map(sys.modules.get, _SEARCHING)):
        search = getattr(searching, _SEARCH, None)
        if search is not None and not hasattr(search, _OURS):
            setattr(searching, _SEARCH, _finding_files(search))


def _is_ours(method: Any) -> bool:
    return hasattr(method.__func__, _OURS)


def _loading_files(original: classmethod[Any, ..., Any]) -> classmethod[Any, ..., Any]:
    """Wrap `ORTModel.from_pretrained`: an ONNX file is loaded by us, everything else by Optimum."""
    import inspect

    from optimum_htp import loader

    function = original.__func__
    signature = inspect.signature(function)

    @functools.wraps(function)
    def from_pretrained(cls: Any, model_id: Any, *args: Any, **kwargs: Any) -> Any:
        if not loader.names_a_file(model_id):
            return function(cls, model_id, *args, **kwargs)
        arguments = dict(signature.bind(cls, model_id, *args, **kwargs).arguments)
        options = arguments.pop("kwargs", {})
        del arguments["cls"]
        return loader.load(cls, **arguments, **options)

    return classmethod(_marked(from_pretrained, original))


def _serving_files(original: staticmethod[..., Any]) -> staticmethod[..., Any]:
    """Wrap `ORTModel._cached_file`: a name of the model being loaded is the file that we found for it."""
    from optimum_htp.loader import files_being_loaded

    function = original.__func__

    @functools.wraps(function)
    def _cached_file(path_or_repo_id: Any, filename: str, subfolder: str = "", *args: Any, **kwargs: Any) -> Any:
        files = files_being_loaded.get()
        if files is None:
            return function(path_or_repo_id, filename, subfolder, *args, **kwargs)
        return files.by_name[filename if subfolder in ("", ".") else f"{subfolder}/{filename}"]

    return staticmethod(_marked(_cached_file, original))


def _finding_files(original: Any) -> Any:
    """Wrap Optimum's search for files: while a model is being loaded, its files are all there is."""
    from optimum_htp.loader import files_being_loaded

    @functools.wraps(original)
    def find_files_matching_pattern(*args: Any, **kwargs: Any) -> Any:
        files = files_being_loaded.get()
        if files is None:
            return original(*args, **kwargs)
        return [files.folder / name for name in files.by_name]

    return _marked(find_files_matching_pattern, original)


def _marked(function: Any, original: Any) -> Any:
    """Note on a wrapper what it wraps, for `deactivate`."""
    setattr(function, _OURS, original)
    return function
