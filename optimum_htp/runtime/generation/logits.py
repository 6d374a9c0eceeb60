"""Logits processors and warpers, in the order of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from optimum_htp.errors import ArgumentError
from optimum_htp.runtime.scores import softmax

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from optimum_htp.runtime.generation.settings import GenerationSettings

__all__ = ["log_softmax", "processed", "warped"]

_NEVER: Final = -np.inf


def log_softmax(logits: NDArray[Any]) -> NDArray[Any]:
    """Return the logarithm of the softmax over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    found: NDArray[Any] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found


def processed(
    scores: NDArray[np.float32], tokens: NDArray[np.int64], prompt: int, settings: GenerationSettings
) -> NDArray[np.float32]:
    """Apply the logits processors.

    Args:
        scores: Scores of the next token, of shape (row, vocabulary); modified in place.
        tokens: The previous tokens, of shape (row, token).
        prompt: Number of tokens of the prompt.
        settings: The generation settings.

    Raises:
        ArgumentError: A token id in the settings is outside the vocabulary.
    """
    length, limit = tokens.shape[1], settings.limit(prompt)
    ends = _within(settings.ends, scores)
    if settings.repetition_penalty != 1.0:
        seen = np.take_along_axis(scores, tokens, axis=1)
        changed = np.where(seen < 0, seen * settings.repetition_penalty, seen / settings.repetition_penalty)
        np.put_along_axis(scores, tokens, changed.astype(scores.dtype), axis=1)
    if settings.no_repeat_ngram_size:
        for row, so_far in zip(scores, tokens.tolist(), strict=True):
            row[_repeating(so_far, settings.no_repeat_ngram_size)] = _NEVER
    for words in settings.bad_words_ids or ():
        _forbid_word(scores, tokens, words, settings.ends)
    if length < settings.least(prompt):
        scores[:, ends] = _NEVER
    if settings.forced_bos_token_id is not None and length == 1:
        _force(scores, [settings.forced_bos_token_id])
    if settings.forced_eos_token_id is not None and length == limit - 1:
        forced = settings.forced_eos_token_id
        _force(scores, [forced] if isinstance(forced, int) else list(forced))
    if settings.suppress_tokens:
        scores[:, _within(settings.suppress_tokens, scores)] = _NEVER
    begins = prompt + (1 if settings.forced_bos_token_id is not None and prompt == 1 else 0)
    if settings.begin_suppress_tokens and length == begins:
        scores[:, _within(settings.begin_suppress_tokens, scores)] = _NEVER
    return scores


def warped(scores: NDArray[np.float32], settings: GenerationSettings) -> NDArray[np.float32]:
    """Apply the warpers for sampling.

    Args:
        scores: Scores of the next token, of shape (row, vocabulary); modified in place.
        settings: The generation settings.
    """
    if settings.temperature != 1.0:
        scores /= np.float32(settings.temperature)
    if settings.top_k:
        count = min(settings.top_k, scores.shape[1])
        scores[scores < np.partition(scores, -count, axis=1)[:, -count, None]] = _NEVER
    if settings.top_p is not None and settings.top_p < 1.0:
        order = np.argsort(scores, axis=1)
        removed = softmax(np.take_along_axis(scores, order, axis=1)).cumsum(axis=1) <= 1 - settings.top_p
        removed[:, -1] = False
        mask = np.empty_like(removed)
        np.put_along_axis(mask, order, removed, axis=1)
        scores[mask] = _NEVER
    if settings.min_p is not None:
        probabilities = softmax(scores)
        scores[probabilities < settings.min_p * probabilities.max(axis=1, keepdims=True)] = _NEVER
    return scores


def _within(tokens: Sequence[int], scores: Any) -> list[int]:
    """Return the token ids that are in the vocabulary. Some configs use -1 for "none"."""
    return [token for token in tokens if 0 <= token < scores.shape[1]]


def _repeating(tokens: list[int], size: int) -> list[int]:
    """Return the tokens that would repeat an n-gram of `size` tokens."""
    start = tokens[len(tokens) - size + 1 :] if size > 1 else []
    groups = (tokens[index : index + size] for index in range(len(tokens) - size + 1))
    return [group[-1] for group in groups if group[:-1] == start]


def _forbid_word(scores: Any, tokens: Any, word: Sequence[int], ends: tuple[int, ...]) -> None:
    _require(word, scores, "bad_words_ids")
    *start, last = word
    if not start and last in ends:
        return
    if not start:
        scores[:, last] = _NEVER
    elif len(start) <= tokens.shape[1]:
        scores[(tokens[:, -len(start) :] == start).all(axis=1), last] = _NEVER


def _force(scores: Any, tokens: list[int]) -> None:
    _require(tokens, scores, "forced token")
    scores[:] = _NEVER
    scores[:, tokens] = 0


def _require(tokens: Sequence[int], scores: Any, what: str) -> None:
    if len(_within(tokens, scores)) < len(tokens):
        raise ArgumentError(f"{what}: {list(tokens)} is outside the vocabulary of {scores.shape[1]} tokens.")
