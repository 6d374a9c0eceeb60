"""Hooks the creation of sessions in Optimum's classes: a load maps weights and opens sessions in parallel.

While any load of this package runs, another class replaces `InferenceSession` in Optimum's modules. In threads without
a load, it behaves like the original class.
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
from optimum_htp.hooks.patching import Call, wrap_attribute
from optimum_htp.loading.recognize import files_being_loaded

if TYPE_CHECKING:
    from optimum_htp.loading.in_parallel import SessionOpener

__all__ = ["expect_session", "install", "opening_sessions"]

_NAME: Final = "InferenceSession"
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
    """Hook into a module that defines classes of models."""
    for owner in list(vars(module).values()):
        if isinstance(owner, type) and owner.__module__ == module.__name__ and _LOAD in vars(owner):
            wrap_attribute(owner, _LOAD, _hook_from_pretrained)


def _hook_from_pretrained(call: Call) -> Any:
    if files_being_loaded.get() is None:
        return call.pass_on()
    with opening_sessions():
        return call.pass_on()


@contextmanager
def opening_sessions(expected: Iterable[Path] = ()) -> Iterator[None]:
    """Create the sessions that Optimum requests in this thread. Those of the expected files open in parallel."""
    from optimum_htp.loading.in_parallel import SessionOpener

    with SessionOpener(expected) as opener:
        token = _opener.set(opener)
        _begin()
        try:
            yield
        finally:
            _end()
            _opener.reset(token)


def expect_session(path: Path) -> None:
    """Announce that Optimum will request a session of a file. Does nothing outside `opening_sessions`."""
    opener = _opener.get()
    if opener is not None:
        opener.expect(path)


def _begin() -> None:
    global _loads
    with _lock.held():
        _loads += 1
        for name in _MODULES:
            module = sys.modules.get(name)
            original = vars(module).get(_NAME) if module is not None else None
            if module is None or not isinstance(original, type) or isinstance(original, _Replacement):
                continue
            replacement = _Replacement(_NAME, (original,), {"__module__": original.__module__})
            _replaced.append((module, original, replacement))
            setattr(module, _NAME, replacement)


def _end() -> None:
    global _loads
    with _lock.held():
        _loads -= 1
        while _loads == 0 and _replaced:
            module, original, replacement = _replaced.pop()
            if vars(module).get(_NAME) is replacement:
                setattr(module, _NAME, original)


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
