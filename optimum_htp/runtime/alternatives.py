"""The sentence that shows how to run a model with Optimum. Messages about unsupported models end with it."""

from __future__ import annotations

from typing import Final

__all__ = ["WITH_OPTIMUM", "with_optimum"]

WITH_OPTIMUM: Final = "With Optimum:"
"""The beginning of the sentence."""


def with_optimum(name: str, task: str | None = None) -> str:
    """Return the sentence.

    Args:
        name: Path of the model.
        task: The task of the pipeline to suggest; None to suggest the model class and preprocessor.
    """
    if task is None:
        return f"{WITH_OPTIMUM} `optimum_htp.OptimumONNXModel.from_onnx({name!r})`."
    return f"{WITH_OPTIMUM} `optimum.pipelines.pipeline({task!r}, model={name!r}, accelerator='ort')`."
