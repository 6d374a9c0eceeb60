"""Rejects operations of a chat template whose result, or whose work, would be much larger than their operands."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from optimum_htp.runtime.template_budget import check_text, measured, read, spend, units

__all__ = ["check_call", "check_filter", "check_operands"]

_LARGEST_WIDTH: Final = 1 << 12  # characters of padding or indentation
_LARGEST_NUMBER: Final = 1 << 12  # bits
_LARGEST_INTEGER_TEXT: Final = 1 << 12  # digits; Python needs quadratic time for them
_LARGEST_PRECISION: Final = 100  # digits after the point
_LARGEST_JSON_INDENT: Final = 16  # characters per level
_CALL: Final = 32  # units
_BY_WORD: Final = ("title", "wordcount")  # These make a list of all words.
_LONGEST_TITLE: Final = 1 << 18  # characters
_SORTING: Final = ("dictsort", "groupby", "sort")
_COMPARISONS_PER_ITEM: Final = 20  # of sorting
_TEXT_METHODS: Final = frozenset(
    (
        *("capitalize", "casefold", "center", "count", "endswith", "find", "index", "isalnum", "isalpha", "isascii"),
        *("isdecimal", "isdigit", "islower", "isnumeric", "isprintable", "isspace", "istitle", "isupper", "join"),
        *("ljust", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex"),
        *("rjust", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase"),
        *("title", "upper", "zfill"),
    )
)
_PADDING: Final = ("center", "ljust", "rjust", "zfill")


def check_operands(operator: str, left: Any, right: Any) -> None:
    """Spend units for an operator, and reject large results.

    Raises:
        ValueError: A number, a text or a list would exceed the limit, or the operator formats a text.
    """
    if operator == "%" and isinstance(left, (str, bytes)):
        raise ValueError("it formats a text with %")
    spend(units(left) + units(right))
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
        if bits > _LARGEST_NUMBER:
            raise ValueError("a number exceeds the limit")
    elif operator == "*":
        items, times = (right, left) if isinstance(left, int) else (left, right)
        if isinstance(items, Collection) and isinstance(times, int):
            size = measured(items)
            check_text((size.characters + size.items) * times)


def check_call(function: Any, arguments: Sequence[Any]) -> None:
    """Spend units for a call, and reject methods that can create large values.

    Raises:
        ValueError: The method is not allowed, or its result would exceed the limit.
    """
    function = getattr(function, "__wrapped__", function)  # jinja2 wraps `format`.
    owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
    spend(_CALL)
    read(list(arguments))
    if isinstance(owner, str):
        _check_text_method(owner, name, arguments)
    elif isinstance(owner, (list, tuple)):
        read(owner)
    elif owner is not None and type(owner).__module__ == "builtins" and not isinstance(owner, Mapping):
        raise ValueError(f"it calls {name} of {type(owner).__name__}")


def _check_text_method(text: str, name: str, arguments: Sequence[Any]) -> None:
    if name not in _TEXT_METHODS:
        raise ValueError(f"it calls {name} of a text")
    searched = max((len(one) for one in arguments if isinstance(one, str)), default=0)
    spend(units(text) * (1 + searched // 8))  # A search from the end needs the product.
    if name in _PADDING and any(isinstance(one, int) and one > _LARGEST_WIDTH for one in arguments):
        raise ValueError(f"it pads a text to more than {_LARGEST_WIDTH} characters")
    if name == "replace":
        _check_replaced(text, *arguments)
    if name == "join":
        _check_joined(text, *arguments[:1])


def _check_replaced(text: str, old: Any = "", new: Any = "", count: Any = -1) -> None:
    found = str(text).count(str(old))
    if isinstance(count, int) and count >= 0:
        found = min(found, count)
    check_text(len(text) + found * len(str(new)))


def _check_joined(separator: Any, items: Any = ()) -> None:
    size = measured(items)
    check_text(size.characters + size.items * len(str(separator)))


def check_filter(name: str, value: Any, given: Sequence[Any], named: Mapping[str, Any]) -> None:
    """Reject a filter's large result before it is created.

    Raises:
        ValueError: The result would exceed the limit.
    """
    everything = [*given, *named.values()]
    if name in _SORTING:
        spend(measured(value).items * _COMPARISONS_PER_ITEM)
    elif name in _BY_WORD:
        if measured(value).characters > _LONGEST_TITLE:
            raise ValueError(f"it finds the words of a text with more than {_LONGEST_TITLE} characters")
        spend(measured(value).characters)
    elif name == "replace":
        _check_replaced(str(value), **{**dict(zip(("old", "new", "count"), given, strict=False)), **named})
    elif name == "join":
        _check_joined(named.get("d", given[0] if given else ""), value)
    elif name == "indent":
        _check_indented(str(value), everything)
    elif name == "tojson":
        _check_json(value, everything)
    elif name == "int" and isinstance(value, str) and len(value) > _LARGEST_INTEGER_TEXT:
        raise ValueError(f"it reads a number of {len(value)} digits")
    elif name == "round" and any(isinstance(one, int) and abs(one) > _LARGEST_PRECISION for one in everything):
        raise ValueError(f"it rounds to more than {_LARGEST_PRECISION} digits")
    elif name == "sum" and any(isinstance(one, Collection) and not isinstance(one, str) for one in everything):
        raise ValueError("it adds up lists")


def _check_indented(text: str, arguments: Sequence[Any]) -> None:
    width = max((one if isinstance(one, int) else len(str(one)) for one in arguments), default=0)
    if width > _LARGEST_WIDTH:
        raise ValueError(f"it indents by more than {_LARGEST_WIDTH} characters")
    check_text((len(text.splitlines()) + 1) * width)


def _check_json(value: Any, arguments: Sequence[Any]) -> None:
    indent = max((one for one in arguments if isinstance(one, int)), default=0)
    if indent > _LARGEST_JSON_INDENT:
        raise ValueError(f"it indents JSON by more than {_LARGEST_JSON_INDENT} characters")
    separators = sum(len(str(item)) for one in arguments if isinstance(one, (list, tuple)) for item in one)
    size = measured(value)
    check_text(size.characters + size.items * (separators + indent * size.depth))
