"""The sentence that shows how to run a model with Optimum. Messages about unsupported models end with it."""

from __future__ import annotations

from typing import Final

from optimum_htp.errors import PreprocessorLoadError

__all__ = ["WITH_OPTIMUM", "unsupported_preprocessor", "with_optimum"]

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


def unsupported_preprocessor(kind: str, name: str, reason: str) -> PreprocessorLoadError:
    """Return the exception for a preprocessor that only transformers supports.

    Args:
        kind: `tokenizer` or `image processor`.
        name: Path of the model.
        reason: The reason.
    """
    return PreprocessorLoadError(
        f"The {kind} of {name} cannot run without transformers: {reason}. {with_optimum(name)}"
    )
