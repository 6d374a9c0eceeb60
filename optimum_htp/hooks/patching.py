"""Wraps functions of other libraries, and restores them.

A hook gets a call as it was made. It reads single arguments by the names of the wrapped function's parameters. It
binds the call to the function's signature only if the call can concern an ONNX file with a record. All other calls are
passed on unchanged, and so are calls that do not bind: the function itself then raises the error.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Collection, Mapping
from types import FunctionType, ModuleType
from typing import Any, Final, NamedTuple

__all__ = [
    "Call",
    "Hook",
    "classes_of",
    "is_active",
    "is_wrapped",
    "replace_attribute",
    "restore_all",
    "wrap_attribute",
    "wrap_function",
]

_ORIGINAL: Final = "_optimum_htp_original"
_BOUND: Final = ("cls", "self")
# The libraries whose modules can have imported a wrapped function by name (`from x import y`).
_LIBRARIES: Final = frozenset({"optimum", "sentence_transformers", "transformers"})


class _Function(NamedTuple):
    """A wrapped function, and facts of its signature that each call needs."""

    original: Any
    signature: inspect.Signature
    positions: Mapping[str, int]
    subject: str
    positional: str | None
    named: str | None

    @classmethod
    def of(cls, function: Any) -> _Function:
        signature = inspect.signature(function)
        kinds = {name: parameter.kind for name, parameter in signature.parameters.items()}
        ordered = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        rest = {kind: name for name, kind in kinds.items()}
        positions = {name: index for index, name in enumerate(kinds) if kinds[name] in ordered}
        return cls(
            function,
            signature,
            positions,
            next((name for name in positions if name not in _BOUND), ""),
            rest.get(inspect.Parameter.VAR_POSITIONAL),
            rest.get(inspect.Parameter.VAR_KEYWORD),
        )


class Call:
    """A call of a wrapped function."""

    __slots__ = ("_function", "args", "kwargs")

    def __init__(self, function: _Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._function = function
        self.args = args
        self.kwargs = kwargs

    def get(self, name: str, default: Any = None) -> Any:
        """Return an argument, given by position or by name, without binding the call."""
        if name in self.kwargs:
            return self.kwargs[name]
        index = self._function.positions.get(name)
        return self.args[index] if index is not None and index < len(self.args) else default

    @property
    def subject(self) -> Any:
        """The first argument after the class or instance, with any name."""
        return self.get(self._function.subject)

    def default(self, name: str) -> Any:
        """Return the default of a parameter."""
        return self._function.signature.parameters[name].default

    def options(self) -> dict[str, Any] | None:
        """Return the given arguments by name, without the class and the subject, or None if the call does not bind."""
        try:
            given = self._function.signature.bind(*self.args, **self.kwargs).arguments
        except TypeError:
            return None
        given.update(given.pop(self._function.named or "", {}))
        hidden = (*_BOUND, self._function.positional, self._function.subject)
        return {name: value for name, value in given.items() if name not in hidden}

    def with_subject(self, subject: Any) -> Call:
        """Return this call with another subject."""
        if self._function.subject in self.kwargs:
            return Call(self._function, self.args, {**self.kwargs, self._function.subject: subject})
        index = self._function.positions[self._function.subject]
        return Call(self._function, (*self.args[:index], subject, *self.args[index + 1 :]), self.kwargs)

    def pass_on(self) -> Any:
        """Call the function with the same arguments."""
        return self._function.original(*self.args, **self.kwargs)

    def pass_on_with(self, subject: Any, without: Collection[str] = (), **changed: Any) -> Any:
        """Call the function with another subject, without some options and with others changed."""
        bound = self._function.signature.bind(*self.args, **self.kwargs)
        given = bound.arguments
        extra = given.setdefault(self._function.named, {}) if self._function.named is not None else {}
        given[self._function.subject] = subject
        for name in without:
            given.pop(name, None)
            extra.pop(name, None)
        for name, value in changed.items():
            (given if name in self._function.signature.parameters else extra)[name] = value
        return self._function.original(*bound.args, **bound.kwargs)


Hook = Callable[[Call], Any]

_active = False
_ABSENT: Final = object()
_replaced: Final[list[tuple[Any, str, Any, Any]]] = []
_wrapped: Final[list[tuple[Any, str]]] = []
# By identity, because another library's wrapper around ours (functools.wraps) copies our wrapper's attributes.
_wrappers: Final[dict[int, Any]] = {}


def wrap_attribute(owner: Any, name: str, hook: Hook) -> None:
    """Let a hook handle the calls of a function of a class or module. Does nothing if it is wrapped.

    A class method or static method stays one.
    """
    global _active
    _active = True
    original = vars(owner)[name]
    if is_wrapped(original):
        return
    kind = type(original)
    wrapper = _wrapper(getattr(original, "__func__", original), hook)
    setattr(wrapper, _ORIGINAL, original)
    _wrappers[id(wrapper)] = wrapper
    setattr(owner, name, kind(wrapper) if kind in (classmethod, staticmethod) else wrapper)
    _wrapped.append((owner, name))


def wrap_function(module: ModuleType, name: str, hook: Hook, aliases: Collection[str] = ()) -> None:
    """Wrap a function of a module, also where modules of the hooked libraries have imported it by name or alias."""
    original = vars(module)[name]
    wrap_attribute(module, name, hook)
    wrapper = vars(module)[name]
    if wrapper is original:
        return
    for holder in _library_modules():
        for alias in (name, *aliases):
            if vars(holder).get(alias) is original:
                setattr(holder, alias, wrapper)


def replace_attribute(owner: Any, name: str, value: Any) -> None:
    """Replace or add an attribute of a class or module until `restore_all`."""
    global _active
    _active = True
    original = vars(owner).get(name, _ABSENT)
    if original is value:
        return
    setattr(owner, name, value)
    _replaced.append((owner, name, original, vars(owner)[name]))


def classes_of(module: ModuleType) -> list[type]:
    """Return the classes that a module defines itself."""
    found = list(vars(module).values())
    return [item for item in found if isinstance(item, type) and item.__module__ == module.__name__]


def is_active() -> bool:
    """Whether the hooks are switched on."""
    return _active


def is_wrapped(attribute: Any) -> bool:
    """Whether an attribute is a wrapper of this module, or another wrapper around one."""
    return hasattr(getattr(attribute, "__func__", attribute), _ORIGINAL)


def restore_all() -> None:
    """Restore every wrapped or replaced attribute, also in modules that have imported a wrapper by name.

    A wrapper that another library has wrapped, or that a module outside the hooked libraries has imported, stays in
    place. It passes every call on.
    """
    global _active
    _active = False
    while _wrapped:
        owner, name = _wrapped.pop()
        _restore(owner, name)
    while _replaced:
        owner, name, original, value = _replaced.pop()
        if vars(owner).get(name) is value:
            delattr(owner, name) if original is _ABSENT else setattr(owner, name, original)
    for module in _library_modules():
        for name, value in list(vars(module).items()):
            if type(value) is FunctionType and id(value) in _wrappers:
                _restore(module, name)


def _restore(owner: Any, name: str) -> None:
    current = vars(owner).get(name)
    function = getattr(current, "__func__", current)
    if id(function) in _wrappers:
        setattr(owner, name, getattr(function, _ORIGINAL))


def _wrapper(function: Any, hook: Hook) -> Any:
    known = _Function.of(function)

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return hook(Call(known, args, kwargs)) if _active else function(*args, **kwargs)

    return wrapper


def _library_modules() -> list[ModuleType]:
    found = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] in _LIBRARIES]
    return [module for module in found if isinstance(module, ModuleType)]
