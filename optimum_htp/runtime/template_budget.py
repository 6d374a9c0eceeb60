"""Bounds the work of one rendering of a chat template.

All operations of a rendering take from one budget. A unit is about 0.1 µs, for example a node of the template or
16 characters of a text. Operations whose result can be much larger than their operands are checked before they run.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["Size", "check_text", "created", "limited", "measured", "read", "spend", "units"]

_MOST_UNITS: Final = 20_000_000  # about two seconds
_UNITS_PER_VALUE: Final = 16  # for each measured value
_UNITS_PER_ITEM: Final = 4  # for each item of a measured collection
_SEPARATOR: Final = 3  # characters between two items of a collection as a text
_MOST_ITEMS: Final = 1 << 18  # of a collection, with the items of its items
_CHARACTERS_PER_UNIT: Final = 16
_MOST_MEMORY: Final = 1 << 26  # bytes of all texts that a template creates
_LONGEST_TEXT: Final = 1 << 22  # characters of a text that a template creates, or of a collection as a text


@dataclass
class _Budget:
    """What a rendering has left."""

    units: int = _MOST_UNITS
    memory: int = _MOST_MEMORY


_budget: Final[ContextVar[_Budget]] = ContextVar("_budget")


@contextmanager
def limited() -> Iterator[None]:
    """Give the block a budget of its own."""
    token = _budget.set(_Budget())
    try:
        yield
    finally:
        _budget.reset(token)


def spend(amount: int, memory: int = 0) -> None:
    """Take units, and bytes of texts, from the budget.

    Raises:
        ValueError: The budget is exhausted.
    """
    budget = _budget.get()
    budget.units -= amount
    budget.memory -= memory
    if budget.memory < 0:
        raise ValueError(f"its texts need more than {_MOST_MEMORY >> 20} MiB")
    if budget.units < 0:
        raise ValueError("it takes too long: it has too many loop iterations, or too long texts")


def units(value: Any) -> int:
    """Return the units for reading a value without the items of its items."""
    if isinstance(value, (str, bytes)):
        return 1 + len(value) // _CHARACTERS_PER_UNIT
    return 1 + len(value) if isinstance(value, Collection) else 1


@dataclass(frozen=True)
class Size:
    """The size of a value with all items in it. An item counts as often as it is referenced.

    Attributes:
        characters: About the length as a text.
        items: Number of items of all collections.
        depth: Number of nested collections, and 1.
    """

    characters: int
    items: int
    depth: int


def measured(value: Any) -> Size:
    """Return the size of a value, and spend units for its items.

    The same list can be many times in a list, so a small value can be a very long text, and its comparison can take
    long.

    Raises:
        ValueError: The value is too large, or the budget is exhausted.
    """
    spend(_UNITS_PER_VALUE)
    characters, items, depth, level = 0, 0, 0, [value]
    while level:
        inner: list[Any] = []
        for one in level:
            if isinstance(one, (str, bytes)):
                characters += len(one)
            elif isinstance(one, Collection):
                items += len(one)
                spend(_UNITS_PER_ITEM * len(one))
                if items > _MOST_ITEMS:
                    raise ValueError(f"a list has more than {_MOST_ITEMS} items")
                if not isinstance(one, range):
                    inner += [*one, *one.values()] if isinstance(one, Mapping) else one
            else:
                characters += one.bit_length() // 3 + 1 if isinstance(one, int) else 1
        level, depth = inner, depth + 1
    characters += _SEPARATOR * items
    check_text(characters)
    return Size(characters, items, depth)


def check_text(characters: int) -> None:
    """Reject a text or collection that exceeds the limit.

    Raises:
        ValueError: There are more than 4,194,304.
    """
    if characters > _LONGEST_TEXT:
        raise ValueError(f"a text has more than {_LONGEST_TEXT} characters")


def read(value: Any) -> Any:
    """Return a value. An operation reads all of it, for example to compare it or to write it as a text.

    Raises:
        ValueError: The value is too large, or the budget is exhausted.
    """
    spend(measured(value).characters // _CHARACTERS_PER_UNIT)
    return value


def created(value: Any) -> Any:
    """Return a value that an operation has created.

    Raises:
        ValueError: The value is too large, or the budget is exhausted.
    """
    if isinstance(value, (str, bytes)):
        check_text(len(value))
        spend(units(value), sys.getsizeof(value))
    elif isinstance(value, (Mapping, list, tuple)):
        measured(value)
    return value
