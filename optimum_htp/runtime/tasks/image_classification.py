"""Labels of images, as in transformers' `ImageClassificationPipeline`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from optimum_htp.runtime.rejections import check_number
from optimum_htp.runtime.scores import class_scores, labels_of, ranked
from optimum_htp.runtime.sessions import output_of
from optimum_htp.runtime.texts import batches, listed, results

if TYPE_CHECKING:
    from optimum_htp.runtime.model import Model

__all__ = ["classify_images"]

_COUNT: Final = 5


def classify_images(
    model: Model, inputs: Any, *, top_k: int | None = None, function_to_apply: str | None = None, batch_size: int = 1
) -> Any:
    """Return labels and scores of images, the best first.

    Args:
        model: The model.
        inputs: A Pillow image, a path or the content of a file, or a list of these.
        top_k: Number of labels; None for 5.
        function_to_apply: `softmax`, `sigmoid` or `none`; None for the function of the config.
        batch_size: Number of images per run.

    Returns:
        For each image a list of `{"label": str, "score": float}`.

    Raises:
        ArgumentError: An input is not an image.
    """
    items, is_list = listed(inputs)
    check_number("top_k", top_k)  # a negative value drops the last labels, as in transformers
    count = min(_COUNT if top_k is None else top_k, len(labels_of(model.config)))
    name = next(iter(model.part.inputs))
    found: list[Any] = []
    for batch in batches(items, batch_size):
        outputs = model.part.run({name: np.stack([model.image_processor(image) for image in batch])})
        found.extend(
            ranked(class_scores(logits, model.config, function_to_apply), model.config, count)
            for logits in output_of(outputs, "logits", (len(batch), None), model.part.path)
        )
    return results(found, is_list)
