"""Decoders that compute the scores of the next token, with a cache of the previous tokens.

Optimum exports a decoder with or without cache inputs, two decoders (one for the first token and one for the others),
or both merged into one file with the input `use_cache_branch`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from optimum_htp.errors import InferenceError, WrongTaskError
from optimum_htp.runtime.rejections import with_optimum
from optimum_htp.runtime.sessions import output_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from optimum_htp.runtime.sessions import Part

__all__ = ["Decoder", "EncoderDecoder", "TextDecoder"]

_PAST: Final = "past_key_values."
_PRESENT: Final = "present."
_SWITCH: Final = "use_cache_branch"
_LOGITS: Final = "logits"


class Decoder(Protocol):
    """The decoder of one generation."""

    def logits(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the scores of the next token after tokens of shape (row, token).

        The result has the shape (row, vocabulary). The caller can modify it.
        """
        ...

    def reorder(self, rows: NDArray[np.int64]) -> None:
        """Replace the cache of each row by the cache of the given row."""
        ...


class _Cache:
    """The cache of a decoder: keys and values of the previous tokens."""

    def __init__(self, part: Part) -> None:
        self.names: Final = [name for name in part.inputs if name.startswith(_PAST)]
        self.part: Final = part
        self.kept: dict[str, NDArray[Any]] = {}

    def empty(self, rows: int, length: int) -> dict[str, NDArray[Any]]:
        """Return a cache of zeros for `length` tokens."""
        return {name: np.zeros(self._shape(name, rows, length), self.part.inputs[name].dtype) for name in self.names}

    def _shape(self, name: str, rows: int, length: int) -> tuple[int, ...]:
        tensor = self.part.inputs[name]
        sizes = []
        for size in tensor.shape:
            if isinstance(size, int):
                sizes.append(size)
            elif isinstance(size, str) and "batch" in size and "head" not in size:  # some caches merge both axes
                sizes.append(rows)
            elif isinstance(size, str) and "length" in size:
                sizes.append(length)
            else:
                raise self._unsupported(name, tensor.shape)
        return tuple(sizes)

    def _unsupported(self, name: str, shape: tuple[Any, ...]) -> WrongTaskError:
        return WrongTaskError(
            f"{self.part.path} has the cache {name} of the unsupported shape {shape}. "
            f"{with_optimum(str(self.part.path))}"
        )

    def keep(self, outputs: Mapping[str, NDArray[Any]], *, only: str = "") -> None:
        """Store the cache outputs of a decoder; with `only`, those whose name contains it."""
        for name, array in outputs.items():
            if name.startswith(_PRESENT) and only in name:
                self.kept[name.replace(_PRESENT, _PAST, 1)] = array

    def reorder(self, rows: NDArray[np.int64]) -> None:
        for name, array in self.kept.items():
            if array.shape[:1] != rows.shape:
                raise self._unsupported(name, array.shape)
        self.kept = {name: array[rows] for name, array in self.kept.items()}


class TextDecoder:
    """A decoder without an encoder."""

    def __init__(self, part: Part) -> None:
        self._part: Final = part
        self._cache: Final = _Cache(part)

    def logits(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the scores of the next token; see `Decoder`."""
        part, cache = self._part, self._cache
        fresh = tokens[:, -1:] if cache.kept else tokens
        feeds: dict[str, NDArray[Any]] = {"input_ids": fresh, "attention_mask": np.ones_like(tokens)}
        if "position_ids" in part.inputs:
            positions = np.arange(tokens.shape[1] - fresh.shape[1], tokens.shape[1])
            feeds["position_ids"] = np.broadcast_to(positions, fresh.shape)
        if _SWITCH in part.inputs:
            feeds[_SWITCH] = np.array([bool(cache.kept)])
        if cache.names:
            feeds |= cache.kept or cache.empty(len(tokens), 1 if _SWITCH in part.inputs else 0)
        outputs = part.run({name: array for name, array in feeds.items() if name in part.inputs})
        if cache.names:
            cache.keep(outputs)
        return _last(outputs, fresh, part)

    def reorder(self, rows: NDArray[np.int64]) -> None:
        """Replace the cache of each row by the cache of the given row."""
        self._cache.reorder(rows)


def _last(outputs: Mapping[str, NDArray[Any]], tokens: NDArray[np.int64], part: Part) -> NDArray[np.float32]:
    """Return the scores after the last token."""
    found = output_of(outputs, _LOGITS, (len(tokens), None, None), part.path)[:, -1].astype(np.float32)
    if not np.isfinite(found.max(axis=-1)).all():
        raise InferenceError(f"{part.path} returns NaN or infinite scores, so no token can be selected.")
    return found


class EncoderDecoder:
    """The decoder of a model with an encoder.

    Args:
        parts: The sessions of the model's files, by recorded name.
        states: The encoder's output, of shape (row, token, size).
        mask: The attention mask of this output, of shape (row, token).
    """

    def __init__(self, parts: Mapping[str, Part], states: NDArray[Any], mask: NDArray[np.int64]) -> None:
        decoders = {name: part for name, part in parts.items() if "decoder" in name}
        first = next((part for name, part in decoders.items() if "with_past" not in name), None)
        if first is None:
            raise WrongTaskError(
                f"The model has no decoder for the first token, only {', '.join(parts)}. Export it again."
            )
        self._first: Final = first
        later = next((part for name, part in decoders.items() if "with_past" in name or "merged" in name), None)
        self._cache: Final = _Cache(later) if later is not None else None
        self._states, self._mask = states, mask

    def logits(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the scores of the next token; see `Decoder`."""
        cache, first = self._cache, self._first
        if cache is not None and cache.kept:
            outputs = self._run(cache.part, tokens[:, -1:], cache.kept)
            cache.keep(outputs, only=".decoder.")  # the keys and values of the encoder do not change
            return _last(outputs, tokens, cache.part)
        past = cache.empty(len(tokens), 1) if cache is not None and cache.part is first else {}
        outputs = self._run(first, tokens, past)
        if cache is not None:
            cache.keep(outputs)
        return _last(outputs, tokens, first)

    def _run(self, part: Part, tokens: NDArray[np.int64], past: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        feeds = {
            "input_ids": tokens,
            "encoder_hidden_states": self._states,
            "encoder_attention_mask": self._mask,
            _SWITCH: np.array([self._cache is not None and bool(self._cache.kept)]),
            **past,
        }
        return part.run({name: array for name, array in feeds.items() if name in part.inputs})

    def reorder(self, rows: NDArray[np.int64]) -> None:
        """Replace the cache of each row by the cache of the given row."""
        self._states, self._mask = self._states[rows], self._mask[rows]
        if self._cache is not None:
            self._cache.reorder(rows)
