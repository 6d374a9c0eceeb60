"""The sentence that shows how to run a model with Optimum. Messages about unsupported models end with it."""

from __future__ import annotations

__all__ = ["with_optimum"]


def with_optimum(name: str, task: str | None = None) -> str:
    """Return the sentence.

    Args:
        name: Path of the model.
        task: The task of the pipeline to suggest; None to suggest the model class and preprocessor.
    """
    if task is None:
        return f"With Optimum: `optimum_htp.OptimumONNXModel.from_onnx({name!r})`."
    return f"With Optimum: `optimum.pipelines.pipeline({task!r}, model={name!r}, accelerator='ort')`."
