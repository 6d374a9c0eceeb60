"""Labels of texts and images, as in three pipelines of transformers.

These are `TextClassificationPipeline`, `ImageClassificationPipeline` and `ZeroShotClassificationPipeline`.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import Formatter
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from optimum_htp.errors import ArgumentError
from optimum_htp.runtime.rejections import check_number
from optimum_htp.runtime.scores import class_scores, labels_of, ranked, softmax
from optimum_htp.runtime.sessions import output_of
from optimum_htp.runtime.texts import batches, listed, results, runs, truncation_of

if TYPE_CHECKING:
    from optimum_htp.runtime.model import Model
    from optimum_htp.runtime.tokenizer import Text

__all__ = ["classify", "classify_images", "classify_zero_shot"]

_BEST: Final = ""
"""The default of `top_k` for texts: only the best label, without a list around it."""
_MOST_IMAGE_LABELS: Final = 5  # by default


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
        inputs: A text, a pair as `{"text": ..., "text_pair": ...}`, or a list of these.
        top_k: Number of labels; None for all.
        function_to_apply: `softmax`, `sigmoid` or `none`; None for the function of the config.
        truncation: Whether, or how, texts are truncated to `max_length`.
        max_length: Maximum tokens; None for the token limit of the model.
        batch_size: Number of texts per run.

    Returns:
        For a text a list of `{"label": str, "score": float}`. For a list of texts the best label of each, or with
        `top_k` a list for each.
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


def classify_images(
    model: Model, inputs: Any, *, top_k: int | None = None, function_to_apply: str | None = None, batch_size: int = 1
) -> Any:
    """Return labels and scores of images, the best first.

    Args:
        inputs: A Pillow image, a path, the content of a file or a `data:` URL, or a list of these.
        top_k: Number of labels; None for 5.
        function_to_apply: `softmax`, `sigmoid` or `none`; None for the function of the config.
        batch_size: Number of images per run.

    Returns:
        For each image a list of `{"label": str, "score": float}`.
    """
    items, is_list = listed(inputs)
    check_number("top_k", top_k)  # a negative value drops the last labels, as in transformers
    count = min(_MOST_IMAGE_LABELS if top_k is None else top_k, len(labels_of(model.config)))
    name = next(iter(model.part.inputs))
    found: list[Any] = []
    for batch in batches(items, batch_size):
        outputs = model.part.run({name: np.stack([model.image_processor(image) for image in batch])})
        found.extend(
            ranked(class_scores(logits, model.config, function_to_apply), model.config, count)
            for logits in output_of(outputs, "logits", (len(batch), None), model.part.path)
        )
    return results(found, is_list)


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
    """Check that a template only inserts the label: format specifications could use all memory."""
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
    """Return the scores of labels from logits of shape (label, class) and the index of the class "entailment".

    `alone` means that each label is scored against contradiction instead of against the other labels.
    """
    if not alone:
        return softmax(logits[:, entailment])
    contradiction = -1 if entailment == 0 else 0
    return softmax(logits[:, [contradiction, entailment]])[:, 1]
