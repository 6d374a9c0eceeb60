"""Zero-shot classification, as in transformers' `ZeroShotClassificationPipeline`."""

from __future__ import annotations

from collections.abc import Sequence
from string import Formatter
from typing import TYPE_CHECKING, Any

import numpy as np

from optimum_htp.errors import ArgumentError
from optimum_htp.runtime.scores import labels_of, softmax
from optimum_htp.runtime.texts import listed, results, runs

if TYPE_CHECKING:
    from optimum_htp.runtime.model import Model

__all__ = ["classify_zero_shot"]


def classify_zero_shot(
    model: Model,
    sequences: Any,
    candidate_labels: str | Sequence[str],
    *,
    hypothesis_template: str = "This example is {}.",
    multi_label: bool = False,
    batch_size: int = 1,
) -> Any:
    """Return the scores of labels that the model was not trained for.

    Args:
        model: A model of natural language inference.
        sequences: A text, or a list of texts.
        candidate_labels: A list of labels, or a text of labels separated by commas.
        hypothesis_template: A sentence with `{}` in place of the label.
        multi_label: Whether several labels can apply.
        batch_size: Number of pairs of text and label per run.

    Returns:
        For each text `{"sequence": str, "labels": list[str], "scores": list[float]}`, the best label first.

    Raises:
        ArgumentError: There are no labels or no texts, or the template is invalid.
    """
    labels = _labels(candidate_labels)
    items, is_list = listed(sequences)
    if not labels or not items:
        raise ArgumentError("At least one text and one label are required.")
    _check_template(hypothesis_template)
    found = []
    for item in items:
        pairs = [(item, hypothesis_template.format(label)) for label in labels]
        logits = np.stack([run.classes("logits") for run in runs(model, _encodings(model, pairs), batch_size)])
        scores = _scores(logits.astype(np.float32), _entailment(model), multi_label or len(labels) == 1)
        order = scores.argsort()[::-1]
        found.append(
            {"sequence": item, "labels": [labels[index] for index in order], "scores": scores[order].tolist()}
        )
    return results(found, is_list)


def _check_template(template: Any) -> None:
    """Check that a template only inserts the label: format specifications could use all memory.

    Raises:
        ArgumentError: It has other fields or format specifications, or no field.
    """
    try:
        places = [part[1:] for part in Formatter().parse(template) if part[1] is not None]
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"hypothesis_template={template!r} cannot be read: {error}.") from error
    if not places or not all(name in ("", "0") and not how and kind is None for name, how, kind in places):
        raise ArgumentError(f"hypothesis_template={template!r} must have {{}} for the label, and no other field.")
    if len(places) > 1 and any(name == "" for name, *_ in places):
        raise ArgumentError(f"hypothesis_template={template!r} has more than one {{}}; use {{0}} instead.")


def _encodings(model: Model, pairs: list[tuple[str, str]]) -> list[Any]:
    try:
        return model.tokenizer.encode(pairs, truncation="only_first")
    except ArgumentError as error:
        if "too short" not in str(error):  # the label alone is too long
            raise
        return model.tokenizer.encode(pairs)


def _labels(given: str | Sequence[str]) -> list[str]:
    return [label.strip() for label in given.split(",") if label.strip()] if isinstance(given, str) else list(given)


def _entailment(model: Model) -> int:
    """Return the index of the class "entailment"; -1 (the last class) without one."""
    labels = labels_of(model.config)
    return next((index for index, label in labels.items() if str(label).lower().startswith("entail")), -1)


def _scores(logits: Any, entailment: int, alone: bool) -> Any:
    """Return the scores of labels.

    Args:
        logits: Logits of shape (label, class).
        entailment: Index of the class "entailment".
        alone: Whether each label is scored against contradiction instead of against the other labels.
    """
    if not alone:
        return softmax(logits[:, entailment])
    contradiction = -1 if entailment == 0 else 0
    return softmax(logits[:, [contradiction, entailment]])[:, 1]
