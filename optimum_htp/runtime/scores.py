"""Scores from logits, with the types and formulas of transformers' pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from optimum_htp.errors import ArgumentError, ConfigLoadError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["class_scores", "label_of", "labels_of", "ranked", "softmax"]

_MOST_CLASSES: Final = 1 << 20


def softmax(logits: NDArray[Any]) -> NDArray[Any]:
    """Return the softmax over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    found: NDArray[Any] = shifted / shifted.sum(axis=-1, keepdims=True)
    return found


def class_scores(logits: NDArray[Any], config: Mapping[str, Any], function: str | None = None) -> NDArray[Any]:
    """Return the scores of classes from logits of shape (class,).

    The function is `softmax`, `sigmoid` or `none`; None for the function of the config's `problem_type`.
    """
    logits = logits.astype(np.float32)
    chosen = _function(config) if function is None else str(getattr(function, "value", function)).lower()
    if chosen == "softmax":
        return softmax(logits)
    if chosen == "sigmoid":
        found: NDArray[Any] = 1.0 / (1.0 + np.exp(-logits))
        return found
    if chosen == "none":
        return logits
    raise ArgumentError(f"function_to_apply={function!r} is unknown; use softmax, sigmoid or none.")


def _function(config: Mapping[str, Any]) -> str:
    count = len(labels_of(config))
    problem = config.get("problem_type")
    if problem == "regression":
        return "none"
    if problem == "multi_label_classification" or count == 1:
        return "sigmoid"
    return "softmax"


def labels_of(config: Mapping[str, Any]) -> dict[int, Any]:
    """Return the labels of a model's classes, by index. Without labels there are two, as in transformers."""
    named = config.get("id2label")
    if isinstance(named, Mapping) and named:
        try:
            return {int(key): label for key, label in named.items()}
        except ValueError as error:
            raise ConfigLoadError(
                f"id2label of the config has an invalid class {str(error)[-40:]}; replace it with an integer."
            ) from error
    count = config.get("num_labels", 2)
    if not isinstance(count, int) or not 0 <= count <= _MOST_CLASSES:
        raise ConfigLoadError(f"num_labels={str(count)[:40]} of the config is not a number of labels.")
    return {index: f"LABEL_{index}" for index in range(count)}


def label_of(labels: Mapping[int, Any], index: int) -> Any:
    """Return the label of a class."""
    if index not in labels:
        raise ConfigLoadError(f"The model has a class {index}, but id2label of its config has no label for it.")
    return labels[index]


def ranked(scores: NDArray[Any], config: Mapping[str, Any], top_k: int | None) -> list[dict[str, Any]]:
    """Return the `top_k` best labels with scores, the best first; all if `top_k` is None."""
    labels = labels_of(config)
    found = [{"label": label_of(labels, index), "score": score.item()} for index, score in enumerate(scores)]
    found.sort(key=lambda one: one["score"], reverse=True)
    return found if top_k is None else found[:top_k]
