"""Scores of logits, in the types and by the formulas of transformers' pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from optimum_htp.errors import ArgumentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["class_scores", "labels_of", "ranked", "softmax"]


def softmax(logits: NDArray[Any]) -> NDArray[Any]:
    """Return the softmax over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    found: NDArray[Any] = shifted / shifted.sum(axis=-1, keepdims=True)
    return found


def class_scores(logits: NDArray[Any], config: Mapping[str, Any], function: str | None = None) -> NDArray[Any]:
    """Return the scores of classes.

    Args:
        logits: Of shape (classes,).
        config: Of the model, which says what the logits mean.
        function: `softmax`, `sigmoid` or `none`; None for the one that the config asks for.

    Raises:
        ArgumentError: There is no such function.
    """
    logits = logits.astype(np.float32)
    chosen = (
        _function(config, len(labels_of(config)))
        if function is None
        else str(getattr(function, "value", function)).lower()
    )
    if chosen == "softmax":
        return softmax(logits)
    if chosen == "sigmoid":
        found: NDArray[Any] = 1.0 / (1.0 + np.exp(-logits))
        return found
    if chosen == "none":
        return logits
    raise ArgumentError(f"function_to_apply={function!r} is not known: give softmax, sigmoid or none.")


def _function(config: Mapping[str, Any], count: int) -> str:
    problem = config.get("problem_type")
    if problem == "regression":
        return "none"
    if problem == "multi_label_classification" or count == 1:
        return "sigmoid"
    return "softmax"


def labels_of(config: Mapping[str, Any]) -> dict[int, str]:
    """Return the labels of a model's classes by their numbers; as transformers, two where a config names none."""
    named = config.get("id2label")
    if isinstance(named, Mapping) and named:
        return {int(key): str(label) for key, label in named.items()}
    count = config.get("num_labels", 2)
    return {index: f"LABEL_{index}" for index in range(count if isinstance(count, int) else 2)}


def ranked(scores: NDArray[Any], config: Mapping[str, Any], top_k: int | None) -> list[dict[str, Any]]:
    """Return labels and scores, the best first; all of them for None."""
    labels = labels_of(config)
    found = [{"label": labels[index], "score": score.item()} for index, score in enumerate(scores)]
    found.sort(key=lambda one: one["score"], reverse=True)
    return found if top_k is None else found[:top_k]
