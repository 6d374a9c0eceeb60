"""What kind of thing a module is (attention, mlp, norm, …), told by the names of classes, for colours alone.

A module whose class says nothing (`Linear`) is of the kind of the module around it, so a projection of attention is
attention; outside of all of them it is `other`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

__all__ = ["KINDS", "kinds_of"]

_RULES: Final = (
    ("norm", r"norm"),
    ("attention", r"attention|attn|selfoutput"),
    ("embedding", r"embed|positional|rotary"),
    ("convolution", r"conv(?!ert)"),
    ("activation", r"gelu|relu|silu|swish|tanh|sigmoid|softmax|activation"),
    ("pooling", r"pool"),
    ("head", r"head|classifi|generator|decoderoutput"),
    ("mlp", r"mlp|feedforward|feed_forward|ffn|intermediate|densere|(?<!model)output$"),
    ("block", r"layer$|block|stage|encoder|decoder|model|transformer|(?:list|sequential)$"),
)
KINDS: Final = (*(kind for kind, _ in _RULES), "other")
_INHERITED: Final = frozenset({"attention", "mlp", "embedding", "convolution", "pooling", "head"})


def kinds_of(classes: Mapping[str, str], holders: Mapping[str, str]) -> dict[str, str]:
    """Return the kind of each module, by name.

    Args:
        classes: Class of each module, outer ones before those in them.
        holders: Name of the module around each; the model itself has none.
    """
    kinds: dict[str, str] = {}
    for name, class_name in classes.items():
        around = kinds.get(holders.get(name, ""), "other") if name else "other"
        own = _own(f"{class_name}") or _own(name.rpartition(".")[2])
        if own is None or (own == "block" and around in _INHERITED):
            own = around if around in _INHERITED else "other"
        elif own == "mlp" and around == "attention":
            own = around
        kinds[name] = own
    return kinds


def _own(text: str) -> str | None:
    lowered = text.lower()
    return next((kind for kind, pattern in _RULES if re.search(pattern, lowered)), None)
