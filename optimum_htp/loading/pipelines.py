"""Pipelines on an ONNX file, or on a model that was loaded from one: they bring their preprocessors along."""

from __future__ import annotations

from typing import Any, Final

from optimum_htp.loading.auto import OptimumONNXModel
from optimum_htp.loading.onnx_repos import find_onnx_repo
from optimum_htp.loading.preprocessors import LazyPreprocessors
from optimum_htp.loading.recognize import names_a_remote_file
from optimum_htp.loading.stamped_files import stamped_file
from optimum_htp.metadata import read_record
from optimum_htp.origin.tasks import WITH_PAST

__all__ = ["completed_arguments"]

_PREPROCESSORS: Final = ("tokenizer", "feature_extractor", "image_processor", "processor")
_LOADING: Final = ("token", "revision", "trust_remote_code")


def completed_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `transformers.pipeline` with what an ONNX file says filled in.

    A path becomes the loaded model, a task that was left out the file's, and preprocessors that were left out the
    model's own. Everything else is passed on as it is.
    """
    model = arguments.get("model")
    path = stamped_file(model, {}) if model is not None else None
    if names_a_remote_file(model) and (repo := find_onnx_repo(model, arguments)):
        repo.record()  # says why it cannot be loaded, before anything is fetched
        path, arguments = repo.fetch(), {**arguments, "revision": None}
    if path is not None:
        record = read_record(path)
        options = {name: arguments[name] for name in _LOADING if arguments.get(name) is not None}
        task = arguments.get("task")
        if record is not None and record.task is not None:
            arguments = {**arguments, "task": task or record.task.removesuffix(WITH_PAST)}
            task = None
        if task is not None:
            options["task"] = task
        options |= arguments.get("model_kwargs") or {}
        model = OptimumONNXModel.from_pretrained(path, config=arguments.get("config"), **options)
        arguments = {**arguments, "model": model, "config": None, "model_kwargs": None, "revision": None}
    preprocessors = getattr(model, "preprocessors", None)
    if isinstance(preprocessors, LazyPreprocessors) and all(arguments.get(name) is None for name in _PREPROCESSORS):
        arguments = {**arguments, **{_kind(preprocessor): preprocessor for preprocessor in reversed(preprocessors)}}
    return arguments


def _kind(preprocessor: Any) -> str:
    """Return the argument of a pipeline that takes a preprocessor."""
    from transformers import ImageProcessingMixin, PreTrainedTokenizerBase, ProcessorMixin

    for kind, name in (
        (PreTrainedTokenizerBase, "tokenizer"),
        (ProcessorMixin, "processor"),
        (ImageProcessingMixin, "image_processor"),
    ):
        if isinstance(preprocessor, kind):
            return name
    return "feature_extractor"
