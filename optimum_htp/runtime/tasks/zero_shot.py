"""Labels that a model was not trained for, as `ZeroShotClassificationPipeline` of transformers gives them."""

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
    """Return how well labels fit texts.

    Args:
        model: The model, of natural language inference.
        sequences: A text, or a list of texts.
        candidate_labels: The labels, or a text with commas between them.
        hypothesis_template: The sentence that a label is put into, at `{}`.
        multi_label: Whether several labels can fit.
        batch_size: How many pairs of text and label are run at once.

    Returns:
        For each text `{"sequence": str, "labels": list[str], "scores": list[float]}`, the best label first.

    Raises:
        ArgumentError: There are no labels, no texts, or no `{}` in the template.
    """
    labels = _labels(candidate_labels)
    items, is_list = listed(sequences)
    if not labels or not items:
        raise ArgumentError("At least one text and one label are needed.")
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
    """Refuse a template that does more than to put a label into a sentence: a width might take all memory.

    Raises:
        ArgumentError: It does, or has no place for a label.
    """
    try:
        places = [part[1:] for part in Formatter().parse(template) if part[1] is not None]
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"hypothesis_template={template!r} cannot be read: {error}.") from error
    if not places or not all(name in ("", "0") and not how and kind is None for name, how, kind in places):
        raise ArgumentError(f"hypothesis_template={template!r} has to have {{}} for the label, and nothing else.")
    if len(places) > 1 and any(name == "" for name, *_ in places):
        raise ArgumentError(f"hypothesis_template={template!r} has more than one {{}}: write {{0}} in each place.")


def _encodings(model: Model, pairs: list[tuple[str, str]]) -> list[Any]:
    try:
        return model.tokenizer.encode(pairs, truncation="only_first")
    except Exception as error:
        if "too short" not in str(error):  # `tokenizers` raises plain Exception where the label alone is too long
            raise
        return model.tokenizer.encode(pairs)


def _labels(given: str | Sequence[str]) -> list[str]:
    return [label.strip() for label in given.split(",") if label.strip()] if isinstance(given, str) else list(given)


def _entailment(model: Model) -> int:
    """Return the number of the class that means that a label fits; the last one where none does."""
    labels = labels_of(model.config)
    return next((index for index, label in labels.items() if str(label).lower().startswith("entail")), -1)


def _scores(logits: Any, entailment: int, alone: bool) -> Any:
    """Return the scores of labels: for each alone against contradiction, or of all together.

    Args:
        logits: Of shape (label, class).
        entailment: The class that says that a label fits.
        alone: Whether each label is judged alone.
    """
    if not alone:
        return softmax(logits[:, entailment])
    contradiction = -1 if entailment == 0 else 0
    return softmax(logits[:, [contradiction, entailment]])[:, 1]
