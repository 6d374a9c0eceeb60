"""transformers' cache objects, and the tuples of layers that optimum-onnx knows in their place."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["CACHE", "PAST", "fill_cache", "is_empty", "legacy_of_cache", "new_cache"]

CACHE: Final = "cache"
PAST: Final = "past_key_values"


def legacy_of_cache(cache: Any) -> Any:
    """Return the layers of a cache as a tuple of tuples of tensors; anything else as it is."""
    from transformers.cache_utils import DynamicCache, EncoderDecoderCache

    if isinstance(cache, EncoderDecoderCache):
        halves = zip(cache.self_attention_cache.layers, cache.cross_attention_cache.layers, strict=False)
        return tuple((own.keys, own.values, cross.keys, cross.values) for own, cross in halves)
    if isinstance(cache, DynamicCache):
        return tuple((layer.keys, layer.values) for layer in cache.layers)
    return cache


def new_cache(*, with_cross_attention: bool) -> Any:
    """Return an empty cache, of layers that grow and forget nothing."""
    from transformers.cache_utils import DynamicCache, EncoderDecoderCache

    return EncoderDecoderCache(DynamicCache(), DynamicCache()) if with_cross_attention else DynamicCache()


def is_empty(cache: Any) -> bool:
    """Whether a cache has no tensors yet."""
    own = getattr(cache, "self_attention_cache", cache)
    return not any(layer.is_initialized for layer in own.layers)


def fill_cache(cache: Any, layers: tuple[tuple[Any, ...], ...]) -> None:
    """Put tensors into a cache in place of those that it has; nothing is copied."""
    cross = getattr(cache, "cross_attention_cache", None)
    _fill(getattr(cache, "self_attention_cache", cache), [layer[:2] for layer in layers])
    if cross is not None:
        _fill(cross, [layer[2:] for layer in layers])
        cache.is_updated = dict.fromkeys(range(len(layers)), True)


def _fill(cache: Any, layers: list[tuple[Any, ...]]) -> None:
    from transformers.cache_utils import DynamicLayer

    while len(cache.layers) < len(layers):
        cache.layers.append(DynamicLayer())
    for layer, (keys, values) in zip(cache.layers, layers, strict=False):
        if not layer.is_initialized:
            layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
