"""Completes the arguments of pipelines for an ONNX file, or for a model loaded from one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from optimum_htp.libraries.ort_classes import AUTO, class_for
from optimum_htp.libraries.preprocessors import KINDS
from optimum_htp.libraries.tasks import WITH_PAST
from optimum_htp.loading.named import Named, named
from optimum_htp.loading.ort_model import load
from optimum_htp.loading.other_commits import needs_reload
from optimum_htp.loading.preprocessors import LazyPreprocessors
from optimum_htp.metadata import read_record

__all__ = ["arguments_of_its_commit", "completed_arguments"]

_TAKEN: Final = {name: kind.part for name, kind in KINDS.items() if kind.is_argument}
"""The arguments of a pipeline for preprocessors, by Auto class."""
_LOADING: Final = ("config", "token", "revision", "trust_remote_code")


def completed_arguments(arguments: dict[str, Any], *, failed: bool = False) -> dict[str, Any] | None:
    """Return the arguments of `transformers.pipeline`, completed from an ONNX file.

    A path is replaced by the loaded model. A missing task comes from the file, and missing preprocessors are the
    model's own. Other arguments are unchanged. If the function has failed with them, repos are searched, and None is
    returned if none is found.
    """
    found = named(arguments.get("model"), _options(arguments), failed=failed, opens=True)
    if found is None and failed:
        return None
    return _completed(arguments, found)


def arguments_of_its_commit(arguments: dict[str, Any], file: Path) -> dict[str, Any] | None:
    """Return the arguments with model and preprocessors of a cached file's own commit.

    Returns None if the file's repo is at this commit or has the same configs.
    """
    options = _options(arguments)
    if options.get("config") is not None or not needs_reload(file, options):
        return None
    return _completed(arguments, Named(file, None, None, {**options, "revision": None}))


def _options(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the options of the model's load."""
    given = {name: arguments[name] for name in _LOADING if arguments.get(name) is not None}
    return {**given, **(arguments.get("model_kwargs") or {})}


def _completed(arguments: dict[str, Any], found: Named | None) -> dict[str, Any]:
    if found is not None:
        arguments = _with_model(found, arguments)
    preprocessors = getattr(arguments.get("model"), "preprocessors", None)
    if not isinstance(preprocessors, LazyPreprocessors):
        return arguments
    if arguments.get("task") is None and preprocessors.task is not None:
        arguments = {**arguments, "task": preprocessors.task.removesuffix(WITH_PAST)}
    return _with_preprocessors(arguments, preprocessors)


def _with_model(found: Named, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments with the model of a file, and its task."""
    path = found.fetched()
    record = read_record(path)
    task, wanted = arguments.get("task"), False
    if record is not None:
        wanted = _lacks(arguments, record.preprocessors) and not _wants_slow(arguments)
        if record.task is not None:
            arguments, task = {**arguments, "task": task or record.task.removesuffix(WITH_PAST)}, None
    cls = class_for(path, record, task or AUTO)
    model = load(cls, path, preprocessors_too=wanted, folder=found.folder, **found.options)
    return {**arguments, "model": model, "config": None, "model_kwargs": None, "revision": None}


def _with_preprocessors(arguments: dict[str, Any], preprocessors: LazyPreprocessors) -> dict[str, Any]:
    """Return the arguments with the missing preprocessors of a model."""
    if not _lacks(arguments, preprocessors.names):
        return arguments
    loaded = preprocessors.slow() if _wants_slow(arguments) else list(preprocessors)
    made = {_kind(preprocessor): preprocessor for preprocessor in reversed(loaded)}
    if any(arguments.get(kind) is not None for kind in _TAKEN.values()):  # a given part replaces that of the processor
        processor = made.pop("processor", None)  # it contains all parts
        made = {**_parts(processor), **made}
    elif "processor" in made and _wants_parts():
        made = {**_parts(made["processor"]), **made}
    taken = {kind: loaded for kind, loaded in made.items() if kind in _TAKEN.values()}
    return {**arguments, **{kind: loaded for kind, loaded in taken.items() if arguments.get(kind) is None}}


def _parts(processor: Any) -> dict[str, Any]:
    """Return the parts of a processor, by the arguments of a pipeline for them."""
    parts = {kind: getattr(processor, kind, None) for kind in _TAKEN.values() if kind != "processor"}
    return {kind: part for kind, part in parts.items() if part is not None}


def _wants_parts() -> bool:
    """Whether a pipeline needs the parts of its processor as arguments, as in transformers 5."""
    from transformers import pipelines

    return hasattr(pipelines, "_resolve_feature_extractor")


def _lacks(arguments: dict[str, Any], names: Sequence[str]) -> bool:
    """Whether preprocessors of a model, given by Auto class, are missing in the arguments."""
    wanted = (_TAKEN[name] for name in names if name in _TAKEN)
    return arguments.get("processor") is None and any(arguments.get(argument) is None for argument in wanted)


def _wants_slow(arguments: dict[str, Any]) -> bool:
    """Whether the call requests a slow tokenizer (written in Python)."""
    return arguments.get("use_fast") is False


def _kind(preprocessor: Any) -> str:
    """Return the name of a preprocessor as a part of a processor and as an argument of a pipeline."""
    bases = {base.__name__ for base in type(preprocessor).__mro__}
    kinds = (kind.part for kind in KINDS.values() if not bases.isdisjoint(kind.loaders.values()))
    return next(kinds, "feature_extractor")
