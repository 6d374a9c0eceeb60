"""Putting wrappers into other libraries' classes and modules, once each, and taking them out again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

__all__ = ["is_wrapped", "restore_all", "wrap_attribute"]

_ORIGINAL: Final = "_optimum_htp_original"
_wrapped: Final[list[tuple[Any, str]]] = []


def wrap_attribute(owner: Any, name: str, wrap: Callable[[Any], Any]) -> None:
    """Put a wrapper in the place of an attribute of a class or module, once.

    Args:
        owner: The class or module that defines it.
        name: The attribute.
        wrap: Makes the wrapper of a function. That of a class method or static method is made one too.
    """
    original = vars(owner)[name]
    if is_wrapped(original):
        return
    wrapper = wrap(getattr(original, "__func__", original))
    setattr(wrapper, _ORIGINAL, original)
    kind = type(original)
    setattr(owner, name, kind(wrapper) if kind in (classmethod, staticmethod) else wrapper)
    _wrapped.append((owner, name))


def is_wrapped(attribute: Any) -> bool:
    """Whether what an attribute holds is a wrapper of ours."""
    return hasattr(getattr(attribute, "__func__", attribute), _ORIGINAL)


def restore_all() -> None:
    """Give every wrapped attribute back as it was; one that somebody else has wrapped since stays."""
    while _wrapped:
        owner, name = _wrapped.pop()
        current = vars(owner).get(name)
        if is_wrapped(current):
            setattr(owner, name, getattr(getattr(current, "__func__", current), _ORIGINAL))
