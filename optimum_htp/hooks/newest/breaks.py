"""The table of breaks: what registers one, applies it, and says which are bridged."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, ModuleType
from typing import Any, Final

from optimum_htp.hooks.patching import is_active

__all__ = ["Break", "apply", "breaks", "lent_names", "lends", "mends", "mentions"]

# The modules in this package that define breaks.
_SOURCES: Final = ("names", "exporting", "models", "generating", "pipelines")


@dataclass(frozen=True)
class Break:
    """One thing in which optimum-onnx and transformers 5 do not agree.

    Attributes:
        name: The name of the function that bridges it.
        module: The module of Optimum that is affected.
        summary: What is broken, in one sentence.
        function: Bridges it in the module and returns True; False where there is nothing to bridge. For a lent name
            it takes nothing and returns the object.
        missing: For a lent name: the module and the name that transformers lacks.
    """

    name: str
    module: str
    summary: str
    function: Callable[..., Any]
    missing: tuple[str, str] | None = None


_breaks: Final[list[Break]] = []
_bridged: Final[set[tuple[str, str]]] = set()


def mends(*modules: str) -> Callable[[Callable[[ModuleType], bool]], Callable[[ModuleType], bool]]:
    """Register a function that bridges a break in these modules of Optimum, after their import."""

    def register(function: Callable[[ModuleType], bool]) -> Callable[[ModuleType], bool]:
        for module in modules:
            _breaks.append(Break(function.__name__, module, _summary(function), function))
        return function

    return register


def lends(*modules: str, missing: tuple[str, str]) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Register a function that returns what transformers lacks while these modules of Optimum are imported."""

    def register(function: Callable[[], Any]) -> Callable[[], Any]:
        for module in modules:
            _breaks.append(Break(function.__name__, module, _summary(function), function, missing))
        return function

    return register


def breaks() -> dict[Break, bool]:
    """Return every break that is known, and whether it is bridged in this process."""
    _load()
    return {item: (item.module, item.name) in _bridged and is_active() for item in _breaks}


def apply(module: ModuleType) -> None:
    """Bridge the breaks of a module that was just imported."""
    _load()
    for item in _breaks:
        if item.module == module.__name__ and item.missing is None and item.function(module):
            _bridged.add((item.module, item.name))


@contextmanager
def lent_names(name: str) -> Iterator[None]:
    """Give transformers the names that a module of Optimum imports from it, until that import is done."""
    _load()
    lent: list[tuple[Any, str, Any]] = []
    try:
        for item in _breaks:
            if item.module == name and item.missing is not None:
                if item.missing[0] == "transformers":  # this puts another module of that name into sys.modules
                    importlib.import_module("transformers.processing_utils")
                holder, attribute = importlib.import_module(item.missing[0]), item.missing[1]
                if not hasattr(holder, attribute):
                    setattr(holder, attribute, value := item.function())
                    lent.append((holder, attribute, value))
                    _bridged.add((item.module, item.name))
        yield
    finally:
        for holder, attribute, value in lent:
            if vars(holder).get(attribute) is value:
                delattr(holder, attribute)


def mentions(function: Any, *texts: str) -> bool:
    """Whether the code of a function has one of these names or strings in it, nested functions included."""
    code = getattr(inspect.unwrap(getattr(function, "__func__", function)), "__code__", None)
    return code is not None and _code_mentions(code, frozenset(texts))


def _code_mentions(code: CodeType, texts: frozenset[str]) -> bool:
    names = {*code.co_names, *code.co_varnames}
    names.update(item for item in code.co_consts if isinstance(item, str))
    nested = (item for item in code.co_consts if isinstance(item, CodeType))
    return not texts.isdisjoint(names) or any(_code_mentions(item, texts) for item in nested)


def _summary(function: Callable[..., Any]) -> str:
    return (function.__doc__ or "").partition("\n")[0]


def _load() -> None:
    for source in _SOURCES:
        importlib.import_module(f"{__package__}.{source}")
