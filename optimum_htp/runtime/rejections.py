"""Errors that several modules raise: for what only transformers supports, and for invalid numbers."""

from __future__ import annotations

from typing import Any, Final

from optimum_htp.errors import ArgumentError, PreprocessorLoadError

__all__ = ["WITH_OPTIMUM", "check_number", "unsupported_preprocessor", "with_optimum"]

WITH_OPTIMUM: Final = "With Optimum:"
"""The beginning of the sentence that shows how to run a model with Optimum. Such messages end with it."""


def with_optimum(name: str, task: str | None = None) -> str:
    """Return the sentence for the model `name`: with a pipeline for the task, or else with the model class."""
    if task is None:
        return f"{WITH_OPTIMUM} `optimum_htp.OptimumONNXModel.from_onnx({name!r})`."
    return f"{WITH_OPTIMUM} `optimum.pipelines.pipeline({task!r}, model={name!r}, accelerator='ort')`."


def unsupported_preprocessor(kind: str, name: str, reason: str) -> PreprocessorLoadError:
    """Return the exception for a preprocessor (`tokenizer` or `image processor`) that only transformers supports."""
    return PreprocessorLoadError(
        f"The {kind} of {name} cannot run without transformers: {reason}. {with_optimum(name)}"
    )


def check_number(name: str, value: Any, least: int | None = None) -> None:
    """Check that an argument is None, or an integer of at least `least`.

    Raises:
        ArgumentError: It is not.
    """
    if value is None or (isinstance(value, int) and (least is None or value >= least)):
        return
    bound = "" if least is None else f" of at least {least}"
    raise ArgumentError(f"{name}={value!r} must be an integer{bound}.")
