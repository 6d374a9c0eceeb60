"""Labels of tokens and entities, as in transformers' `TokenClassificationPipeline`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from optimum_htp.errors import ArgumentError, ConfigLoadError
from optimum_htp.runtime.rejections import check_number
from optimum_htp.runtime.scores import label_of, labels_of, softmax
from optimum_htp.runtime.texts import Run, listed, results, runs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from optimum_htp.runtime.model import Model

__all__ = ["classify_tokens"]

_STRATEGIES: Final = ("none", "simple", "first", "average", "max")
_IGNORED: Final = ("O",)
Entity = dict[str, Any]


@dataclass(frozen=True)
class _Token:
    """A token with its scores. `is_inner`: whether it continues the word of the previous token."""

    word: str
    scores: NDArray[Any]
    start: int
    end: int
    index: int
    is_inner: bool


def classify_tokens(
    model: Model,
    inputs: Any,
    *,
    aggregation_strategy: str = "none",
    ignore_labels: Sequence[str] | None = None,
    stride: int | None = None,
    batch_size: int = 1,
) -> Any:
    """Return the labelled tokens or the entities of texts.

    Args:
        inputs: A text, or a list of texts.
        aggregation_strategy: `none`, `simple`, `first`, `average` or `max`.
        ignore_labels: Labels to skip; None for `O`.
        stride: Tokens that consecutive parts of a long text have in common; None to truncate long texts.
        batch_size: Number of texts per run.

    Returns:
        For each text a list of `{"entity" or "entity_group": str, "score": float, "word": str, "start": int, "end":
        int}`; tokens also have `"index": int`.
    """
    strategy = str(getattr(aggregation_strategy, "value", aggregation_strategy)).lower()
    if strategy not in _STRATEGIES:
        raise ArgumentError(
            f"aggregation_strategy={aggregation_strategy!r} is unknown; use one of {', '.join(_STRATEGIES)}."
        )
    ignored = _IGNORED if ignore_labels is None else ignore_labels
    if isinstance(ignored, str):
        raise ArgumentError(f"ignore_labels={ignored!r} must be a list of labels.")
    check_number("stride", stride, 0)
    tokenizer = model.tokenizer
    if stride is not None and (strategy == "none" or stride >= (tokenizer.longest or stride + 1)):
        raise ArgumentError(
            f"stride={stride} needs an aggregation_strategy, and must be less than the {tokenizer.longest} tokens of "
            "the model."
        )
    items, is_list = listed(inputs)
    found = []
    for item in items:
        (encoding,) = tokenizer.encode([item], truncation="longest_first", stride=stride or 0)
        parts = [encoding, *(encoding.overflowing if stride is not None else ())]
        entities = [
            entity
            for run in runs(model, parts, batch_size)
            for entity in _entities(model, item, run, strategy)
            if entity.get("entity") not in ignored and entity.get("entity_group") not in ignored
        ]
        found.append(_without_overlaps(entities) if len(parts) > 1 else entities)
    return results(found, is_list)


def _entities(model: Model, text: str, run: Run, strategy: str) -> list[Entity]:
    tokens = _tokens(model, text, run)
    labels = labels_of(model.config)
    if strategy in ("none", "simple"):
        entities = [
            {
                "entity": label_of(labels, int(token.scores.argmax())),
                "score": token.scores.max().item(),
                "index": token.index,
                "word": token.word,
                "start": token.start,
                "end": token.end,
            }
            for token in tokens
        ]
    else:
        entities = [_word(model, word, labels, strategy) for word in _words(tokens)]
    if strategy != "none" and not all(isinstance(one["entity"], str) for one in entities):
        raise ConfigLoadError("id2label of the config has labels that are not texts. Use aggregation_strategy='none'.")
    return entities if strategy == "none" else _groups(model, entities)


def _tokens(model: Model, text: str, run: Run) -> list[_Token]:
    tokenizer, encoding = model.tokenizer, run.encoding
    has_prefix = bool(getattr(tokenizer.backend.model, "continuing_subword_prefix", None))
    scores = softmax(run.tokens("logits").astype(np.float32))
    found = []
    for index, (start, end) in enumerate(encoding.offsets):
        if encoding.special_tokens_mask[index]:
            continue
        word, shown = tokenizer.backend.id_to_token(encoding.ids[index]), text[start:end]
        is_inner = len(word) != len(shown) if has_prefix else start > 0 and " " not in text[start - 1 : start + 1]
        if encoding.ids[index] == tokenizer.ids.get("unk_token"):
            word, is_inner = shown, False
        found.append(_Token(word, scores[index], start, end, index + run.offset, is_inner))
    return found


def _words(tokens: list[_Token]) -> list[list[_Token]]:
    found: list[list[_Token]] = []
    for token in tokens:
        if found and token.is_inner:
            found[-1].append(token)
        else:
            found.append([token])
    return found


def _word(model: Model, tokens: list[_Token], labels: dict[int, Any], strategy: str) -> Entity:
    if strategy == "first":
        scores = tokens[0].scores
    elif strategy == "max":
        scores = max(tokens, key=lambda token: token.scores.max()).scores
    else:
        scores = np.nanmean(np.stack([token.scores for token in tokens]), axis=0)
    return {
        "entity": label_of(labels, int(scores.argmax())),
        "score": scores.max().item(),
        "word": model.tokenizer.text_of([token.word for token in tokens]),
        "start": tokens[0].start,
        "end": tokens[-1].end,
    }


def _tag(label: str) -> tuple[str, str]:
    """Return whether a label begins (`B`) or continues (`I`) an entity, and the label of the entity."""
    return (label[0], label[2:]) if label.startswith(("B-", "I-")) else ("I", label)


def _groups(model: Model, entities: list[Entity]) -> list[Entity]:
    groups: list[list[Entity]] = []
    for entity in entities:
        begins, tag = _tag(entity["entity"])
        if groups and tag == _tag(groups[-1][-1]["entity"])[1] and begins != "B":
            groups[-1].append(entity)
        else:
            groups.append([entity])
    return [
        {
            "entity_group": group[0]["entity"].split("-", 1)[-1],
            "score": float(np.nanmean([entity["score"] for entity in group])),
            "word": model.tokenizer.text_of([entity["word"] for entity in group]),
            "start": group[0]["start"],
            "end": group[-1]["end"],
        }
        for group in groups
    ]


def _without_overlaps(entities: list[Entity]) -> list[Entity]:
    """Return the entities of all parts of a text; of two that overlap, the longer one, then the better score."""
    found: list[Entity] = []
    for entity in sorted(entities, key=lambda one: one["start"]):
        if not found or not found[-1]["start"] <= entity["start"] < found[-1]["end"]:
            found.append(entity)
        elif _weight(entity) > _weight(found[-1]):
            found[-1] = entity
    return found


def _weight(entity: Entity) -> tuple[int, float]:
    return entity["end"] - entity["start"], entity["score"]
