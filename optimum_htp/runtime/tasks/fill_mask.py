"""Words for masks, as in transformers' `FillMaskPipeline`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from optimum_htp.errors import ArgumentError, PreprocessorLoadError
from optimum_htp.masking import get_logger
from optimum_htp.runtime.rejections import check_number
from optimum_htp.runtime.scores import softmax
from optimum_htp.runtime.texts import Run, listed, runs, truncation_of

if TYPE_CHECKING:
    from optimum_htp.runtime.model import Model

__all__ = ["fill_mask"]

logger = get_logger(__name__)

_COUNT: Final = 5


def fill_mask(
    model: Model,
    inputs: Any,
    *,
    top_k: int | None = None,
    targets: str | Sequence[str] | None = None,
    truncation: bool | str | None = None,
    batch_size: int = 1,
) -> Any:
    """Return the best words for the masks of texts.

    Args:
        inputs: A text with the tokenizer's mask token, or a list of texts.
        top_k: Number of words; None for 5.
        targets: The words to choose from; None for the whole vocabulary.
        truncation: Whether, or how, texts are truncated to the token limit of the model.
        batch_size: Number of texts per run.

    Returns:
        For each mask a list of `{"score": float, "token": int, "token_str": str, "sequence": str}`. A text with one
        mask has one list, a text with several masks a list of lists.
    """
    tokenizer, count = model.tokenizer, _COUNT if top_k is None else top_k
    check_number("top_k", count, 0)
    if "mask_token" not in tokenizer.ids:
        raise PreprocessorLoadError(f"The tokenizer of {model.source.name} has no mask_token.")
    chosen = None if targets is None else _target_ids(model, targets)
    items, is_list = listed(inputs)
    encodings = tokenizer.encode(items, truncation=truncation_of(truncation))
    for item, encoding in zip(items, encodings, strict=True):
        if tokenizer.ids["mask_token"] not in encoding.ids:
            raise ArgumentError(f"{item!r} has no mask. Put {tokenizer.special['mask_token']} in the text.")
    found = [_filled(model, run, count, chosen) for run in runs(model, encodings, batch_size)]
    return found if is_list and len(found) != 1 else found[0]


def _filled(model: Model, run: Run, top_k: int, chosen: list[int] | None) -> Any:
    tokenizer = model.tokenizer
    ids = np.asarray(run.encoding.ids)
    masks = np.flatnonzero(ids == tokenizer.ids["mask_token"])
    probabilities = softmax(run.tokens("logits")[masks].astype(np.float32))
    if chosen is not None:
        probabilities = probabilities[:, chosen]
    rows = []
    for mask, scores in zip(masks, probabilities, strict=True):
        row = []
        for best in np.argsort(-scores, kind="stable")[:top_k].tolist():
            token = best if chosen is None else chosen[best]
            filled = ids.copy()
            filled[mask] = token
            filled = filled[filled != tokenizer.ids.get("pad_token", -1)]
            row.append(
                {
                    "score": scores[best].item(),
                    "token": token,
                    "token_str": tokenizer.decode([token]),
                    "sequence": tokenizer.decode(filled.tolist(), skip_special_tokens=len(masks) == 1),
                }
            )
        rows.append(row)
    return rows[0] if len(rows) == 1 else rows


def _target_ids(model: Model, targets: str | Sequence[str]) -> list[int]:
    tokenizer, found = model.tokenizer, []
    for target in [targets] if isinstance(targets, str) else targets:
        if not isinstance(target, str):
            raise ArgumentError(f"A target must be a text, not {type(target).__name__}.")
        index = tokenizer.backend.token_to_id(target)
        if index is None:
            ids = tokenizer.encode([target], truncation="longest_first", max_length=1, add_special_tokens=False)[0].ids
            if not ids:
                logger.warning("The target %r is not in the vocabulary and is skipped.", target)
                continue
            index = ids[0]
            logger.warning(
                "The target %r is not in the vocabulary; %r replaces it.", target, tokenizer.backend.id_to_token(index)
            )
        found.append(index)
    if not found:
        raise ArgumentError("No word in targets= is in the vocabulary.")
    return sorted({*found})
