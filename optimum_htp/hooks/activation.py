"""Switches the hooks on and off.

PyTorch calls `activate` at the end of `import torch` (see pyproject.toml), before the hooked classes exist. So
`activate` adds a finder to `sys.meta_path`, which installs the hooks when the modules of these classes are imported.
"""

from __future__ import annotations

import importlib.abc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final

from optimum_htp.hooks import HOOKED, install, uninstall
from optimum_htp.hooks.newest import providing

__all__ = ["activate", "deactivate"]

_OFF: Final = ("", "0", "false", "no", "off")


def activate() -> None:
    """Make Optimum's `ORTModel` classes load `.onnx` files, and transformers' Auto classes their configs and the like.

    Does nothing if the hooks are active, or if the environment variable `OPTIMUM_HTP_DISABLE` is set to anything but
    an empty text, `0`, `false`, `no` or `off`.
    """
    if os.environ.get("OPTIMUM_HTP_DISABLE", "0").lower() not in _OFF:
        return
    was_active = _is_active()
    for name in HOOKED:
        if (module := sys.modules.get(name)) is not None:
            if not getattr(module.__spec__, "_initializing", False):
                install(module)
            elif not was_active:  # it is importing PyTorch now; once active, the finder handles such imports
                _begin_unfinished(module)
    if not was_active:
        sys.meta_path.insert(0, _PostImportFinder())


def deactivate() -> None:
    """Remove the hooks from Optimum and transformers. Does nothing if they are not active."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _PostImportFinder)]
    uninstall()


class _PostImportFinder(importlib.abc.MetaPathFinder):
    """Installs a hook right after the import of the hooked module."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in HOOKED:
            return None
        others = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec")]
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _InstallingLoader(spec.loader)  # type: ignore[assignment]
        return spec


class _InstallingLoader:
    """Wraps a module's own loader until the module is loaded.

    Attributes are those of the own loader, for code that inspects a module before its import (`runpy`, `inspect`,
    `importlib.resources`).
    """

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        if name == "_loader":  # not set yet, while it is copied
            raise AttributeError(name)
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        with ExitStack() as lent:
            with _faults_reported(module):
                lent.enter_context(providing(module.__name__))
            self._loader.exec_module(module)
        with _faults_reported(module):
            install(module)


class _UnfinishedModule(ModuleType):
    """A module whose import began before `activate`. Its hook is installed at its first use after the import."""

    def __getattribute__(self, name: str) -> Any:
        spec = ModuleType.__getattribute__(self, "__spec__")
        if name != "__class__" and not getattr(spec, "_initializing", False):
            ModuleType.__setattr__(self, "__class__", ModuleType)
            _unfinished.pop(ModuleType.__getattribute__(self, "__name__"), ExitStack()).close()
            if _is_active():
                with _faults_reported(self):
                    install(self)
        return ModuleType.__getattribute__(self, name)


_unfinished: Final[dict[str, ExitStack]] = {}


def _begin_unfinished(module: ModuleType) -> None:
    """Prepare a module that is being imported: bridge its import, and install its hooks at its first use."""
    lent = _unfinished.setdefault(module.__name__, ExitStack())
    with _faults_reported(module):
        lent.enter_context(providing(module.__name__))
    module.__class__ = _UnfinishedModule


def _is_active() -> bool:
    return any(isinstance(finder, _PostImportFinder) for finder in sys.meta_path)


_reported = False


@contextmanager
def _faults_reported(module: ModuleType) -> Iterator[None]:
    """Log an exception in place of raising it: Optimum must load even if the hooks fail."""
    global _reported
    try:
        yield
    except Exception as error:  # noqa: BLE001
        if _reported:  # the other modules fail for the same reason
            return
        _reported = True
        from optimum_htp.masking import get_logger

        get_logger(__name__).warning(
            "optimum-htp is installed, but cannot hook into %s (%s: %s). from_pretrained does not load .onnx files. "
            "Check the versions with `optimum-cli htp env`.",
            module.__name__,
            type(error).__name__,
            error,
        )
