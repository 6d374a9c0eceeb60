"""The searches of transformers (greedy, sampling and beam search), and its logits processors in their order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from optimum_htp.errors import ArgumentError
from optimum_htp.runtime.scores import softmax

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from optimum_htp.runtime.generation.decoders import Decoder
    from optimum_htp.runtime.generation.settings import GenerationSettings

__all__ = ["Stop", "generate", "warped"]

Stop = Callable[["NDArray[np.int64]"], bool]
"""Returns whether a text of these tokens, of shape (token,), ends for another reason than an end token."""

_WORST: Final = np.float32(-1.0e9)
_NEVER: Final = -np.inf


def generate(
    decoder: Decoder,
    start: NDArray[np.int64],
    settings: GenerationSettings,
    stop: Stop,
    seen: Callable[[int], None] | None = None,
) -> NDArray[np.int64]:
    """Return the tokens of generated texts, of shape (text, token), padded after the end of a text.

    They include the start, of shape (1, token). `seen` is called with each new token of the first text, but not in a
    beam search.
    """
    if settings.num_beams > 1:
        return _by_beams(decoder, start, settings, stop)
    return _one_by_one(decoder, start, settings, stop, seen)


def _one_by_one(
    decoder: Decoder,
    start: NDArray[np.int64],
    settings: GenerationSettings,
    stop: Stop,
    seen: Callable[[int], None] | None,
) -> NDArray[np.int64]:
    prompt, rows = start.shape[1], settings.num_return_sequences
    tokens = np.repeat(start, rows, axis=0)
    random, going = np.random.default_rng(settings.seed), np.ones(rows, dtype=bool)
    limit, ends = settings.limit(prompt), settings.ends
    while going.any() and tokens.shape[1] < limit:
        scores = _processed(decoder.logits(tokens), tokens, prompt, settings)
        chosen = _sampled(softmax(warped(scores, settings)), random) if settings.do_sample else scores.argmax(axis=1)
        chosen = np.where(going, chosen, settings.padding)
        tokens = np.concatenate([tokens, chosen[:, None]], axis=1)
        if seen is not None:
            seen(int(chosen[0]))
        going &= ~np.isin(chosen, ends)
        going &= np.array([not is_going or not stop(row) for is_going, row in zip(going, tokens, strict=True)])
    return tokens


def _sampled(probabilities: NDArray[Any], random: np.random.Generator) -> NDArray[np.int64]:
    """Return a random token for each row, sampled by probability."""
    sums = probabilities.astype(np.float64).cumsum(axis=1)
    bounds = random.random((len(sums), 1)) * sums[:, -1:]
    found: NDArray[np.int64] = (sums <= bounds).sum(axis=1).clip(max=probabilities.shape[1] - 1)
    return found


def _by_beams(
    decoder: Decoder, start: NDArray[np.int64], settings: GenerationSettings, stop: Stop
) -> NDArray[np.int64]:
    """Run a beam search as `GenerationMixin._beam_search` of transformers 4.57 for one text."""
    prompt, beams = start.shape[1], settings.num_beams
    limit, ends = settings.limit(prompt), settings.ends
    running = np.repeat(start, beams, axis=0)
    scores: NDArray[np.float32] = np.full(beams, _WORST, np.float32)
    scores[0] = 0  # only of the first beam, because all beams are equal
    done: list[tuple[np.float32, NDArray[np.int64]]] = []
    improves = True
    while True:
        length = running.shape[1]
        found = _processed(_log_softmax(decoder.logits(running)), running, prompt, settings) + scores[:, None]
        best = _largest(found.ravel(), max(2, 1 + len(ends)) * beams)
        origins, values = best // found.shape[1], found.ravel()[best]
        candidates = np.concatenate([running[origins], (best % found.shape[1])[:, None]], axis=1)
        ended = np.array([length + 1 >= limit or row[-1] in ends or stop(row) for row in candidates])
        is_full = len(done) == beams and settings.early_stopping is True
        if improves and not is_full:
            penalty = np.float32((length + 1 - prompt) ** settings.length_penalty)
            done += [(values[one] / penalty, candidates[one]) for one in np.flatnonzero(ended[:beams])]
            done = sorted(done, key=lambda one: -one[0])[:beams]  # stable: equal scores keep their order
        kept = _largest(values + ended * _WORST, beams)
        running, scores = candidates[kept], (values + ended * _WORST)[kept].astype(np.float32)
        decoder.reorder(origins[kept])
        improves = improves and _may_improve(scores[0], done, length + 1 - prompt, limit - prompt, settings)
        if not improves or ended.all() or (len(done) == beams and settings.early_stopping is True):
            break
    texts = [text for _, text in done[: settings.num_return_sequences]]
    # here transformers treats the padding token 0 as missing
    filler = (settings.pad_token_id or ends[0]) if ends else settings.padding
    filled = np.full((len(texts), max(map(len, texts))), filler, dtype=np.int64)
    for row, text in zip(filled, texts, strict=True):
        row[: len(text)] = text
    return filled


def _largest(values: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Return the indices of the largest values, the largest first; of equal values, the first indices."""
    return np.argsort(-values, kind="stable")[:count]


def _may_improve(best: np.float32, done: list[Any], length: int, longest: int, settings: GenerationSettings) -> bool:
    """Whether a running beam can still exceed the worst finished text."""
    if len(done) < settings.num_beams:
        return True
    at = longest if settings.early_stopping == "never" and settings.length_penalty > 0 else length
    return bool(best / np.float32(at**settings.length_penalty) > done[-1][0])


def _log_softmax(logits: NDArray[Any]) -> NDArray[Any]:
    """Return the logarithm of the softmax over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    found: NDArray[Any] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found


def _processed(
    scores: NDArray[np.float32], tokens: NDArray[np.int64], prompt: int, settings: GenerationSettings
) -> NDArray[np.float32]:
    """Apply the logits processors to scores of the next token, of shape (row, vocabulary), in place.

    The previous tokens have the shape (row, token); the first `prompt` of them are the prompt.
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
    """Apply the warpers for sampling to scores of the next token, of shape (row, vocabulary), in place."""
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
