"""The searches of transformers: greedy, sampling and beam search."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from optimum_htp.runtime.generation.logits import log_softmax, processed, warped
from optimum_htp.runtime.scores import softmax

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from optimum_htp.runtime.generation.decoders import Decoder
    from optimum_htp.runtime.generation.settings import GenerationSettings

__all__ = ["Stop", "generate"]

Stop = Callable[["NDArray[np.int64]"], bool]
"""Returns whether a text of these tokens, of shape (token,), ends for another reason than an end token."""

_WORST: Final = np.float32(-1.0e9)


def generate(
    decoder: Decoder,
    start: NDArray[np.int64],
    settings: GenerationSettings,
    stop: Stop,
    seen: Callable[[int], None] | None = None,
) -> NDArray[np.int64]:
    """Return the tokens of generated texts, including the start.

    Args:
        decoder: Computes the scores.
        start: The first tokens of each text, of shape (1, token).
        settings: The generation settings.
        stop: Further stopping criterion.
        seen: Called with each new token of the first text; not in a beam search.

    Returns:
        An array of shape (text, token), padded after the end of a text.
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
        scores = processed(decoder.logits(tokens), tokens, prompt, settings)
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
        found = processed(log_softmax(decoder.logits(running)), running, prompt, settings) + scores[:, None]
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
