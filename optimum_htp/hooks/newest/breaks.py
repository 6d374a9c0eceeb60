"""The table of breaks: registers them, applies their bridges, and reports which are bridged."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, ModuleType
from typing import Any, Final, TypeVar

from optimum_htp.hooks.patching import is_active

__all__ = ["Break", "apply", "breaks", "bridges", "mentions", "provided_names"]

# The modules of this package that define breaks.
_SOURCES: Final = ("names", "exporting", "models", "generating")

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Break:
    """An incompatibility between optimum-onnx and transformers 5.

    Attributes:
        module: The affected module of Optimum.
        function: Bridges the break in the module and returns True, or returns False if the break is absent. For a
            missing name, takes no argument and returns the object.
        missing: For a missing name: the module and the name that transformers lacks.
    """

    name: str
    module: str
    summary: str
    function: Callable[..., Any]
    missing: tuple[str, str] | None = None


_breaks: Final[list[Break]] = []
_bridged: Final[set[tuple[str, str]]] = set()


def bridges(*modules: str, missing: tuple[str, str] | None = None) -> Callable[[Function], Function]:
    """Register a function that bridges a break in modules of Optimum; see `Break`."""

    def register(function: Function) -> Function:
        summary = (function.__doc__ or "").partition("\n")[0]
        for module in modules:
            _breaks.append(Break(function.__name__, module, summary, function, missing))
        return function

    return register


def breaks() -> dict[Break, bool]:
    """Return all known breaks, and whether each is bridged in this process."""
    _load()
    return {item: (item.module, item.name) in _bridged and is_active() for item in _breaks}


def apply(module: ModuleType) -> None:
    """Bridge the breaks of a module that was just imported."""
    _load()
    for item in _breaks:
        if item.module == module.__name__ and item.missing is None and item.function(module):
            _bridged.add((item.module, item.name))


@contextmanager
def provided_names(name: str) -> Iterator[None]:
    """Add the names to transformers that a module of Optimum imports from it, until the import is done."""
    _load()
    added: list[tuple[Any, str, Any]] = []
    try:
        for item in _breaks:
            if item.module == name and item.missing is not None:
                if item.missing[0] == "transformers":  # this puts another module of that name into sys.modules
                    importlib.import_module("transformers.processing_utils")
                holder, attribute = importlib.import_module(item.missing[0]), item.missing[1]
                if not hasattr(holder, attribute):
                    setattr(holder, attribute, value := item.function())
                    added.append((holder, attribute, value))
                    _bridged.add((item.module, item.name))
        yield
    finally:
        for holder, attribute, value in added:
            if vars(holder).get(attribute) is value:
                delattr(holder, attribute)


def mentions(function: Any, *texts: str) -> bool:
    """Whether the code of a function, or of a nested function, contains one of these names or strings."""
    code = getattr(inspect.unwrap(getattr(function, "__func__", function)), "__code__", None)
    return code is not None and _code_mentions(code, frozenset(texts))


def _code_mentions(code: CodeType, texts: frozenset[str]) -> bool:
    names = {*code.co_names, *code.co_varnames}
    names.update(item for item in code.co_consts if isinstance(item, str))
    nested = (item for item in code.co_consts if isinstance(item, CodeType))
    return not texts.isdisjoint(names) or any(_code_mentions(item, texts) for item in nested)


def _load() -> None:
    for source in _SOURCES:
        importlib.import_module(f"{__package__}.{source}")
