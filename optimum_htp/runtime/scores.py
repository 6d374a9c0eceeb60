"""Scores of logits, in the types and by the formulas of transformers' pipelines."""

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


def labels_of(config: Mapping[str, Any]) -> dict[int, Any]:
    """Return the labels of a model's classes by their numbers; as transformers, two where a config names none.

    Raises:
        ConfigLoadError: The config has no such labels.
    """
    named = config.get("id2label")
    if isinstance(named, Mapping) and named:
        try:
            return {int(key): label for key, label in named.items()}
        except ValueError as error:
            raise ConfigLoadError(
                f"id2label of the config has the class {str(error)[-40:]}: give it a number."
            ) from error
    count = config.get("num_labels", 2)
    if not isinstance(count, int) or not 0 <= count <= _MOST_CLASSES:
        raise ConfigLoadError(f"num_labels={str(count)[:40]} of the config is no number of labels.")
    return {index: f"LABEL_{index}" for index in range(count)}


def label_of(labels: Mapping[int, Any], index: int) -> Any:
    """Return the label of a class.

    Raises:
        ConfigLoadError: It has none.
    """
    if index not in labels:
        raise ConfigLoadError(f"The model gives a class {index}, and id2label of its config has no label of it.")
    return labels[index]


def ranked(scores: NDArray[Any], config: Mapping[str, Any], top_k: int | None) -> list[dict[str, Any]]:
    """Return labels and scores, the best first; all of them for None."""
    labels = labels_of(config)
    found = [{"label": label_of(labels, index), "score": score.item()} for index, score in enumerate(scores)]
    found.sort(key=lambda one: one["score"], reverse=True)
    return found if top_k is None else found[:top_k]
