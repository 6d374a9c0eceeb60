"""The rules by which the module of a node is found.

The names of modules that a file claims are bounded in length and depth: a name is walked level by level wherever
modules are added up or tagged, so a file of a few kilobytes could otherwise ask for hours and gigabytes. The deepest
models have some twenty levels, and names of some two hundred characters.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from optimum_htp.errors import MetadataError

__all__ = ["Found", "INFERRED", "LAST_RESORTS", "Rule", "check_class", "check_module", "is_within_bounds"]


class Rule(str, Enum):
    """How a node's module was found, in the order in which the rules are tried."""

    NAME = "name"  # the scope in the node's name
    REPEATED = "repeated_call"  # the same, through a second call of a module
    PARAMETER = "parameter"  # what owns the parameter that it uses, where its scope is a module around or inside that
    DYNAMO = "dynamo"  # what the dynamo exporter wrote beside the node
    CARRIED_NAME = "carried_by_name"  # the node of this name before a pass
    FUSED = "fused"  # the common module of the nodes that it replaced
    VALUE = "value_name"  # the scope in the name of a value that it makes
    DATA_FLOW = "data_flow"  # the one module of all nodes that its values come from and lead to
    ENCLOSING = "enclosing"  # the innermost module around all of these
    ORDER = "order"  # the common module of its neighbours in the file: constants that nobody uses
    KEPT = "kept"  # the tag that the node had before, where the rules that infer say no more
    PARTIAL = "partial_name"  # the innermost module that the scope in its name leads to
    ROOT = "root"  # none of these


LAST_RESORTS: Final = (Rule.ENCLOSING, Rule.PARTIAL, Rule.ROOT)
"""The rules that place a node in a module around the one that it came from, or in that itself: which is not known."""

INFERRED: Final = frozenset({Rule.DATA_FLOW, Rule.ORDER, *LAST_RESORTS})
"""The rules that conclude from other nodes, for lack of something that the exporter wrote."""

Found = dict[int, tuple[str, Rule]]
"""The modules of nodes, by index of the node."""


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
