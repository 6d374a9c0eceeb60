"""What in a config would take a library's memory or time rather than be refused by it.

transformers makes a label of each of `num_labels`, and several models a type of each of `num_hidden_layers`, before
anybody has looked at the number; a model is made of as many layers and experts. A config comes from a Hub, or from
whoever wrote the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

__all__ = ["config_fault"]

# The highest counts, by the last word of the key.
_HIGHEST: Final = {
    **dict.fromkeys(("layers", "layer", "blocks", "depths", "experts", "stages", "codebooks", "streams"), 1 << 12),
    **dict.fromkeys(("labels", "classes"), 1_000_000),
}


def config_fault(config: Any) -> str | None:
    """Return what is wrong with a parsed config, None where it can be given to a library."""
    if not isinstance(config, Mapping):
        return f"it has to be a JSON object, and is a {type(config).__name__}"
    for key, value in _items(config):
        highest = _HIGHEST.get(key.rpartition("_")[2])
        for count in value if isinstance(value, list) else (value,):
            if highest is not None and isinstance(count, (int, float)) and count > highest:
                return f"{key} is {count:.3g}, and more than {highest} are nobody's"
    return None


def _items(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the items of a config and of the configs in it. Deep ones have been refused as JSON."""
    for key, value in config.items():
        yield str(key), value
        for inner in value if isinstance(value, list) else (value,):
            if isinstance(inner, Mapping):
                yield from _items(inner)
