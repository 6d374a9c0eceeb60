"""Labels of texts, as in transformers' `TextClassificationPipeline`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from optimum_htp.errors import ArgumentError
from optimum_htp.runtime.rejections import check_number
from optimum_htp.runtime.scores import class_scores, ranked
from optimum_htp.runtime.texts import listed, results, runs, truncation_of

if TYPE_CHECKING:
    from optimum_htp.runtime.model import Model
    from optimum_htp.runtime.tokenizer import Text

__all__ = ["classify"]

_BEST: Final = ""
"""The default of `top_k`: only the best label, without a list around it."""


def classify(
    model: Model,
    inputs: Any,
    *,
    top_k: int | str | None = _BEST,
    function_to_apply: str | None = None,
    truncation: bool | str | None = None,
    max_length: int | None = None,
    batch_size: int = 1,
) -> Any:
    """Return labels and scores of texts.

    Args:
        model: The model.
        inputs: A text, a pair as `{"text": ..., "text_pair": ...}`, or a list of these.
        top_k: Number of labels; None for all.
        function_to_apply: `softmax`, `sigmoid` or `none`; None for the function of the config.
        truncation: Whether, or how, texts are truncated to `max_length`.
        max_length: Maximum tokens; None for the token limit of the model.
        batch_size: Number of texts per run.

    Returns:
        For a text a list of `{"label": str, "score": float}`. For a list of texts the best label of each, or with
        `top_k` a list for each.

    Raises:
        ArgumentError: An input is neither a text nor a pair, or an argument is out of range.
    """
    best_only = top_k == _BEST
    if not best_only:
        check_number("top_k", top_k)  # a negative value drops the last labels, as in transformers
    items, is_list = listed(inputs)
    encodings = model.tokenizer.encode(
        [_text(item) for item in items], truncation=truncation_of(truncation, max_length), max_length=max_length
    )
    found: list[Any] = []
    for run in runs(model, encodings, batch_size):
        scores = class_scores(run.classes("logits"), model.config, function_to_apply)
        chosen = ranked(scores, model.config, 1 if best_only else top_k)  # type: ignore[arg-type]
        found.append(chosen[0] if best_only else chosen)
    if best_only and isinstance(inputs, str):
        return found
    return results(found, is_list)


def _text(item: Any) -> Text:
    if isinstance(item, str):
        return item
    if isinstance(item, dict) and isinstance(item.get("text"), str) and {*item} <= {"text", "text_pair"}:
        pair = item.get("text_pair")
        return (item["text"], pair) if pair else item["text"]  # transformers ignores an empty one
    raise ArgumentError(f'An input must be a text or {{"text": ..., "text_pair": ...}}, not {type(item).__name__}.')
