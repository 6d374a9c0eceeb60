"""The rules by which the module of a node is found."""

from __future__ import annotations

from enum import Enum
from typing import Final

__all__ = ["INFERRED", "LAST_RESORTS", "Found", "Rule"]


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
