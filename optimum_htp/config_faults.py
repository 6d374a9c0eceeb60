"""What in a config would take a library's memory or time rather than be refused by it.

transformers makes a label of each of `num_labels`, and several models a type of each of `num_hidden_layers`, before
anybody has looked at the number. A config comes from a Hub, or from whoever wrote the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

__all__ = ["config_fault"]

_HIGHEST: Final = 1_000_000
_COUNTS: Final = ("num_labels", "num_classes", "n_layer", "n_layers")


def config_fault(config: Any) -> str | None:
    """Return what is wrong with a parsed config, None where it can be given to a library."""
    if not isinstance(config, Mapping):
        return f"it has to be a JSON object, and is a {type(config).__name__}"
    for key, value in _items(config):
        if _is_count(key) and isinstance(value, (int, float)) and value > _HIGHEST:
            return f"{key} is {value:.3g}, and more than {_HIGHEST} are nobody's"
    return None


def _is_count(key: str) -> bool:
    return key in _COUNTS or key.endswith("_layers")


def _items(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the items of a config and of the configs in it. Deep ones have been refused as JSON."""
    for key, value in config.items():
        yield str(key), value
        for inner in value if isinstance(value, list) else (value,):
            if isinstance(inner, Mapping):
                yield from _items(inner)
