"""How long and how deep the names of modules may be that a file claims; what is beyond is no model's.

A name is walked level by level wherever modules are added up or tagged, so a file of a few kilobytes could otherwise
ask for hours and gigabytes. The deepest models have some twenty levels, and names of some two hundred characters.
"""

from __future__ import annotations

from typing import Final

from optimum_htp.errors import MetadataError

__all__ = ["check_class", "check_module", "is_within_bounds"]

_MAX_LENGTH: Final = 1024  # characters
_MAX_LEVELS: Final = 64
_MAX_CLASS: Final = 256
_SHOWN: Final = 60


def is_within_bounds(name: str) -> bool:
    """Whether a module's name, or a node's with the scope in it, is one that a model can have."""
    return len(name) <= _MAX_LENGTH and name.count(".") + name.count("/") < _MAX_LEVELS


def check_module(name: str, where: str) -> str:
    """Return a module's name.

    Args:
        name: The name, as a file has it.
        where: Which node or property has it, for the message.

    Raises:
        MetadataError: It is longer or deeper than a model's can be.
    """
    if not is_within_bounds(name):
        raise MetadataError(
            f"{where} names a module {name[:_SHOWN]!r}… of {len(name)} characters on {name.count('.') + 1} levels: "
            f"{_MAX_LENGTH} characters, {_MAX_LEVELS} levels are the most. `optimum-cli htp strip` removes the tags."
        )
    return name


def check_class(name: str, where: str) -> str:
    """Return the name of a module's class.

    Raises:
        MetadataError: It is longer than a class's can be.
    """
    if len(name) > _MAX_CLASS:
        raise MetadataError(
            f"{where} names a class {name[:_SHOWN]!r}… of {len(name)} characters: {_MAX_CLASS} are the most. "
            "`optimum-cli htp strip` removes the tags."
        )
    return name
