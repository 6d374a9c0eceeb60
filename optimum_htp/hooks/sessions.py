"""The sessions that Optimum's classes make: while a load of ours runs, weights are mapped, and several made at once.

The name `InferenceSession` in Optimum's modules is exchanged as long as any load of ours runs, and means what it
always does in every other thread.
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
_exchanged: Final[list[tuple[ModuleType, Any, Any]]] = []


def install(module: ModuleType) -> None:
    """Hook into a module that defines classes of models."""
    for owner in list(vars(module).values()):
        if isinstance(owner, type) and owner.__module__ == module.__name__ and _LOAD in vars(owner):
            wrap_attribute(owner, _LOAD, _loading)


def _loading(call: Call) -> Any:
    if files_being_loaded.get() is None:
        return call.pass_on()
    with opening_sessions():
        return call.pass_on()


@contextmanager
def opening_sessions(expected: Iterable[Path] = ()) -> Iterator[None]:
    """Make the sessions that Optimum makes meanwhile in this thread: of those files, and of others."""
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
    """Say that Optimum will make a session of a file, if sessions are ours to make now."""
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
            if module is None or not isinstance(original, type) or isinstance(original, _Exchanged):
                continue
            stand_in = _Exchanged(_NAME, (original,), {"__module__": original.__module__})
            _exchanged.append((module, original, stand_in))
            setattr(module, _NAME, stand_in)


def _end() -> None:
    global _loads
    with _lock.held():
        _loads -= 1
        while _loads == 0 and _exchanged:
            module, original, stand_in = _exchanged.pop()
            if vars(module).get(_NAME) is stand_in:
                setattr(module, _NAME, original)


class _Exchanged(type):
    """The type of what stands for a class of sessions: it is called like that, and returns objects of that."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        original, opener = cls.__base__, _opener.get()
        if opener is None or not args or not isinstance(args[0], (str, os.PathLike)):
            return original(*args, **kwargs)  # type: ignore[misc]
        from onnxruntime import InferenceSession

        if original is not InferenceSession:  # somebody else has put their own there
            return original(*args, **kwargs)  # type: ignore[misc]
        return opener.open(*args, **kwargs)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls.__base__)  # type: ignore[arg-type]

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, cls.__base__)  # type: ignore[arg-type]
