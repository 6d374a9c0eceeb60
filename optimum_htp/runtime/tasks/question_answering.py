"""Answers that are spans of a text, as in transformers' `QuestionAnsweringPipeline`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from optimum_htp.errors import ArgumentError
from optimum_htp.runtime.rejections import check_number
from optimum_htp.runtime.scores import softmax
from optimum_htp.runtime.texts import Run, runs

if TYPE_CHECKING:
    import tokenizers

    from optimum_htp.runtime.model import Model

__all__ = ["answer"]

_LONGEST: Final = 384  # tokens of question and text, in one run
_STRIDE: Final = 128  # tokens
_LONGEST_ANSWER: Final = 15  # tokens
_IMPOSSIBLE: Final = 1000000.0
Answer = dict[str, Any]


def answer(
    model: Model,
    inputs: Any = None,
    *,
    question: str | Sequence[str] | None = None,
    context: str | Sequence[str] | None = None,
    top_k: int | None = None,
    doc_stride: int | None = None,
    max_answer_len: int | None = None,
    max_seq_len: int | None = None,
    handle_impossible_answer: bool | None = None,
    align_to_words: bool | None = None,
    batch_size: int = 1,
) -> Any:
    """Return the spans of texts that answer questions.

    Args:
        inputs: `{"question": str, "context": str}`, or a list of these.
        question, context: The same as two arguments. Lists are paired; one context is used for all questions.
        top_k: Number of answers; None for 1.
        doc_stride: Tokens that consecutive parts of a long text have in common; None for 128, or half a part.
        max_answer_len: Maximum tokens of an answer; None for 15.
        max_seq_len: Maximum tokens of a part, with the question; None for 384, or the token limit of the model.
        handle_impossible_answer: Whether "no answer" is a result.
        align_to_words: Whether answers consist of whole words; None for yes.
        batch_size: Number of parts per run.

    Returns:
        For each question `{"score": float, "start": int, "end": int, "answer": str}`, or a list of these.
    """
    for name, number in (("top_k", top_k), ("max_answer_len", max_answer_len), ("max_seq_len", max_seq_len)):
        check_number(name, number, 1)
    check_number("doc_stride", doc_stride, 0)
    top_k, longest_answer = top_k or 1, max_answer_len or _LONGEST_ANSWER
    aligned = align_to_words is None or align_to_words
    longest = max_seq_len or min(model.tokenizer.longest or _LONGEST, _LONGEST)
    stride = doc_stride if doc_stride is not None else min(longest // 2, _STRIDE)
    if stride > longest:
        raise ArgumentError(f"doc_stride={stride} must not be larger than max_seq_len={longest}.")
    # The place of the context in the pair. Models that pad on the left have the question after the context.
    own = 1 if model.tokenizer.padding_side == "right" else 0
    found = []
    for one, text in _pairs(inputs, question, context):
        parts = _encodings(model, (one, text) if own else (text, one), own, longest, stride)
        answers: list[Answer] = []
        impossible = _IMPOSSIBLE
        for run in runs(model, parts, batch_size):
            starts, ends, scores, null = _spans(model, run, own, top_k * 2 + 10 if aligned else top_k, longest_answer)
            impossible = min(impossible, null)
            for start, end, score in zip(starts, ends, scores, strict=True):
                first, last = _characters(run.encoding, own, int(start), int(end), aligned)
                _add(answers, {"score": score.item(), "start": first, "end": last, "answer": text[first:last]})
        if handle_impossible_answer:
            answers.append({"score": impossible, "start": 0, "end": 0, "answer": ""})
        best = sorted(answers, key=lambda one: one["score"], reverse=True)[:top_k]
        found.append(best[0] if len(best) == 1 else best)
    return found[0] if len(found) == 1 else found


def _pairs(inputs: Any, question: Any, context: Any) -> list[tuple[str, str]]:
    found: list[tuple[Any, Any]]
    if inputs is not None:
        items = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        found = [(one.get("question"), one.get("context")) if isinstance(one, dict) else (None, None) for one in items]
    else:
        questions, texts = (
            list(given) if isinstance(given, (list, tuple)) else [given] for given in (question, context)
        )
        texts = texts * len(questions) if isinstance(context, str) else texts
        if len(questions) != len(texts):
            raise ArgumentError(f"There are {len(questions)} questions and {len(texts)} contexts.")
        found = list(zip(questions, texts, strict=True))
    if not all(isinstance(text, str) and text for pair in found for text in pair):
        raise ArgumentError(
            'Each input needs a text for the question and one for the context: {"question": ..., "context": ...}.'
        )
    return found


def _encodings(model: Model, pair: tuple[str, str], own: int, longest: int, stride: int) -> list[tokenizers.Encoding]:
    """Return the parts of a context, each with the question and at most `longest` tokens."""
    (encoding,) = model.tokenizer.encode(
        [pair], truncation="only_second" if own else "only_first", max_length=longest, stride=stride
    )
    return [encoding, *encoding.overflowing]


def _spans(model: Model, run: Run, own: int, count: int, longest: int) -> tuple[Any, Any, Any, float]:
    """Return the first tokens, the last tokens and the scores of the best spans, and the score of "no answer"."""
    encoding = run.encoding
    cls = model.tokenizer.ids.get("cls_token")
    is_text = np.array([index == own for index in encoding.sequence_ids])
    allowed = is_text | (np.array(encoding.ids) == cls) if cls is not None else is_text
    start, end = (
        softmax(np.where(allowed, run.tokens(name, 1).astype(np.float32), -10000.0))
        for name in ("start_logits", "end_logits")
    )
    null = (start[0] * end[0]).item()
    start[0] = end[0] = 0.0
    scores = np.tril(np.triu(np.outer(start, end)), longest - 1)
    flat = scores.ravel()
    if count == 1:
        best = np.array([flat.argmax()])
    elif len(flat) < count:
        best = np.argsort(-flat)
    else:
        best = np.argpartition(-flat, count)[:count]
        best = best[np.argsort(-flat[best])]
    starts, ends = np.unravel_index(best, scores.shape)
    kept = allowed[starts] & allowed[ends]
    starts, ends = starts[kept], ends[kept]
    return starts, ends, scores[starts, ends], null


def _characters(encoding: tokenizers.Encoding, own: int, start: int, end: int, aligned: bool) -> tuple[int, int]:
    """Return the start and end of a span in the text, extended to whole words if `aligned`."""
    first, last = encoding.token_to_word(start), encoding.token_to_word(end)
    if aligned and first is not None and last is not None:
        begins, ends = encoding.word_to_chars(first, own), encoding.word_to_chars(last, own)
        if begins is not None and ends is not None:
            return begins[0], ends[1]
    return encoding.offsets[start][0], encoding.offsets[end][1]


def _add(answers: list[Answer], found: Answer) -> None:
    """Add an answer, or add its score to an existing answer with the same words."""
    for one in answers:
        if one["answer"].lower() == found["answer"].lower():
            one["score"] += found["score"]
            return
    answers.append(found)
