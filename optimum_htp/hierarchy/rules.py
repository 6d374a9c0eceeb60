"""The rules that find the module of a node.

Names of modules in a file are limited in length and depth, because sums and tags walk over a name level by level: a
small file could otherwise cost hours and gigabytes. The deepest models have about twenty levels, and names of about
two hundred characters.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from optimum_htp.errors import MetadataError

__all__ = ["Found", "INFERRED", "LAST_RESORTS", "Rule", "check_class", "check_module", "is_within_bounds"]


class Rule(str, Enum):
    """The rule that found a node's module, in the order in which the rules are tried."""

    NAME = "name"  # The scope in the node's name.
    REPEATED = "repeated_call"  # The same, through a second call of a module.
    PARAMETER = "parameter"  # The owner of its parameter, if its scope is a module around or inside the owner.
    DYNAMO = "dynamo"  # The dynamo exporter's metadata of the node.
    CARRIED_NAME = "carried_by_name"  # The node of this name before a pass.
    FUSED = "fused"  # The common module of the nodes that it replaced.
    VALUE = "value_name"  # The scope in the name of a value that it makes.
    DATA_FLOW = "data_flow"  # The single module of all nodes that its values come from and lead to.
    ENCLOSING = "enclosing"  # The innermost module around all of these.
    ORDER = "order"  # The common module of its neighbours in the file, for unused constants.
    KEPT = "kept"  # The existing tag of the node, if the inferring rules are not more exact.
    PARTIAL = "partial_name"  # The innermost module that the scope in its name leads to.
    ROOT = "root"  # No other rule applies.


LAST_RESORTS: Final = (Rule.ENCLOSING, Rule.PARTIAL, Rule.ROOT)
"""The rules that may return an outer module of the exact one."""

INFERRED: Final = frozenset({Rule.DATA_FLOW, Rule.ORDER, *LAST_RESORTS})
"""The rules that infer from other nodes, without output of the exporter."""

Found = dict[int, tuple[str, Rule]]
"""The modules of nodes, by index of the node."""


_MAX_LENGTH: Final = 1024  # Characters.
_MAX_LEVELS: Final = 64
_MAX_CLASS: Final = 256
_SHOWN: Final = 60


def is_within_bounds(name: str) -> bool:
    """Whether a module's name, or a node's name with a scope, is within the limits."""
    return len(name) <= _MAX_LENGTH and name.count(".") + name.count("/") < _MAX_LEVELS


def check_module(name: str, where: str) -> str:
    """Check a module's name, and return it.

    `where` is the node or property that contains it, for the message.

    Raises:
        MetadataError: It exceeds the limits.
    """
    if not is_within_bounds(name):
        raise MetadataError(
            f"{where} contains the module {name[:_SHOWN]!r}… with {len(name)} characters on {name.count('.') + 1} "
            f"levels. The limits are {_MAX_LENGTH} characters and {_MAX_LEVELS} levels. `optimum-cli htp strip` "
            "removes the tags."
        )
    return name


def check_class(name: str, where: str) -> str:
    """Check the name of a module's class, and return it.

    Raises:
        MetadataError: It exceeds the limit.
    """
    if len(name) > _MAX_CLASS:
        raise MetadataError(
            f"{where} contains the class {name[:_SHOWN]!r}… with {len(name)} characters. The limit is {_MAX_CLASS}. "
            "`optimum-cli htp strip` removes the tags."
        )
    return name
