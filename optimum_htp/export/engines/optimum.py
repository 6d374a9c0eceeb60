"""Calls Optimum's exporter with its own options, and returns the models that it exported.

`main_export` does not return the model, but its class and modules are needed. So the function that it passes the
loaded model to is wrapped while it runs.
"""

from __future__ import annotations

import functools
import inspect
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from optimum_htp.errors import ExportError, MissingDependencyError, OptionError
from optimum_htp.export.engines.base import EXPORTING, Work, check_precision, refusals_as_export_errors, torch_dtype
from optimum_htp.export.output_files import put_weights_inside
from optimum_htp.export.subject import ExportSubject
from optimum_htp.hierarchy.capture import ExportedParts, watched_exports
from optimum_htp.libraries.dependencies import needing_optimum_onnx
from optimum_htp.libraries.names import SENTENCE_MODULES
from optimum_htp.libraries.tasks import encoder_alone, infer_task, with_past
from optimum_htp.masking import get_logger
from optimum_htp.starting import without_current_folder

__all__ = ["OptimumEngine"]

logger = get_logger(__name__)

_NAME: Final = "Optimum"

# This package resolves the model and moves the output: Optimum only sees folders.
_NOT_FORWARDED: Final = {"model_name_or_path", "output", "revision", "subfolder", "kwargs_shapes"}
# These options change a model at loading, so they do not apply to a model in memory.
_LOADING_ONLY: Final = ("dtype", "pad_token_id", "framework", "trust_remote_code", "use_subprocess")


class OptimumEngine:
    """Optimum's ONNX exporter (optimum-onnx): its files are for Optimum's `ORTModel` classes.

    Args:
        hint: End of the message if it rejects a model.
    """

    name = "optimum"

    def __init__(self, hint: str = "") -> None:
        self._hint = hint

    def missing(self) -> str | None:
        """Return why optimum-onnx cannot be imported, with the command that helps."""
        try:
            with needing_optimum_onnx("Optimum's exporter"):
                from optimum.exporters.onnx import main_export  # noqa: F401
        except MissingDependencyError as error:
            return str(error)
        return None

    def options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Translate options, with their names on the command line or in Python, to arguments of `main_export`.

        The names are checked against the signature in the installed Optimum. So new options work without a change
        here.
        """
        with needing_optimum_onnx("Exporting"):
            from optimum.exporters.onnx import main_export
            from optimum.utils import DEFAULT_DUMMY_SHAPES

        known = (set(inspect.signature(main_export).parameters) | set(DEFAULT_DUMMY_SHAPES)) - _NOT_FORWARDED
        check_precision(options)
        translated = {}
        for name, value in options.items():
            positive = f"do_{name.removeprefix('no_')}"
            if name in known:
                translated[name] = value
            elif f"_{name}" in known:
                translated[f"_{name}"] = value
            elif name.startswith("no_") and positive in known:
                translated[positive] = not value
            else:
                raise OptionError(f"Optimum's ONNX exporter has no option {name!r}: leave it out.")
        return translated

    def infer_task(self, subject: ExportSubject, options: Mapping[str, Any]) -> str:
        """Return the task from the Hub or from the checkpoint's class, with past if the model supports it."""
        self._refuse_encoder_alone(subject)
        task = infer_task(subject.config, subject.library, subject.pipeline_tag)
        task = task if options.get("monolith") else with_past(task, subject.config, subject.library)
        logger.info("The task was inferred: %s", task)
        return task

    def export(self, work: Work) -> tuple[type, ExportedParts]:
        """Export with Optimum; return the exported class, and its parts."""
        subject, options = work.subject, work.options
        self._refuse_encoder_alone(subject)
        model, checkpoint = subject.model, subject.checkpoint
        if model is None and checkpoint is not None and subject.library != "timm":
            model, parts = _export_from_folder(work, checkpoint.folder, self._hint)
        else:
            if model is None and checkpoint is not None:
                model, options = _load_timm(checkpoint.folder, options)
            with subject.reading_preprocessors_from(work.folder):
                parts = _export_loaded_model(work, model, options, self._hint)
        if options.get("dynamo"):
            put_weights_inside(work.folder)
        return type(model), parts

    def _refuse_encoder_alone(self, subject: ExportSubject) -> None:
        """Reject an encoder that Optimum would export as the whole model, with random weights for the decoder."""
        alone = encoder_alone(subject.config) if subject.library == "transformers" else None
        if alone is None:
            return
        advice = "Export the model that contains both."
        if subject.model is None and subject.checkpoint is not None and SENTENCE_MODULES in subject.checkpoint.files:
            advice = "Pass --library sentence_transformers."
        raise ExportError(
            f"{subject.name} is a {alone}, an encoder that Optimum exports only together with its decoder. "
            f"{advice}{self._hint}"
        )


def _export_from_folder(work: Work, folder: Path, hint: str) -> tuple[Any, ExportedParts]:
    """Export the model in a folder with `optimum.exporters.onnx.main_export`.

    Returns:
        The exported PyTorch model or diffusers pipeline, and its parts.
    """
    from optimum.exporters.onnx import main_export

    options = {
        **work.options,
        "task": work.task,
        "library_name": work.subject.library,
        "token": work.access.token,
        "local_files_only": work.access.local_files_only,
        **({} if work.access.cache_dir is None else {"cache_dir": os.fspath(work.access.cache_dir)}),
    }
    with (
        EXPORTING.held(),
        without_current_folder(),  # Optimum validates files in child processes.
        _loaded_models() as models,
        watched_exports(work.folder, lambda: models[-1], wanted=work.hierarchy) as parts,
        refusals_as_export_errors(_NAME, work.subject.name, hint),
    ):
        main_export(model_name_or_path=os.fspath(folder), output=work.folder, **options)
    return models[-1], parts


def _export_loaded_model(work: Work, model: Any, options: Mapping[str, Any], hint: str) -> ExportedParts:
    """Export a model in memory with `optimum.exporters.onnx.onnx_export_from_model`; return its parts.

    Options that only concern loading are left out.
    """
    from optimum.exporters.onnx import onnx_export_from_model
    from optimum.utils import DEFAULT_DUMMY_SHAPES

    known = set(inspect.signature(onnx_export_from_model).parameters) | set(DEFAULT_DUMMY_SHAPES)
    refused = [name for name in options if name not in known and name not in _LOADING_ONLY]
    if options.get("dtype") is not None or options.get("pad_token_id") is not None or refused:
        raise OptionError(
            f"{', '.join(refused) or 'dtype and pad_token_id'} cannot be set for a model in memory. Change the model "
            "before the export (`model.half()`, `model.config.pad_token_id = …`)."
        )
    given = {name: value for name, value in options.items() if name in known} | {"task": work.task}
    with (
        EXPORTING.held(),
        without_current_folder(),
        watched_exports(work.folder, lambda: model, wanted=work.hierarchy) as parts,
        refusals_as_export_errors(_NAME, type(model).__name__, hint),
    ):
        onnx_export_from_model(model, work.folder, **given)
    return parts


@contextmanager
def _loaded_models() -> Iterator[list[Any]]:
    """Collect the models that `main_export` loads in this thread, at the function that it passes them to."""
    import optimum.exporters.onnx.__main__ as module

    original = module.onnx_export_from_model
    models: list[Any] = []
    mine = threading.get_ident()

    @functools.wraps(original)
    def watched(*args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() == mine and (args or "model" in kwargs):
            models.append(kwargs["model"] if "model" in kwargs else args[0])
        return original(*args, **kwargs)

    module.onnx_export_from_model = watched
    try:
        yield models
    finally:
        if module.onnx_export_from_model is watched:
            module.onnx_export_from_model = original


def _load_timm(folder: Path, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Load a timm model from a folder; return it with the remaining options for its export.

    Optimum can load one only by its name on the Hub.
    """
    try:
        import timm
    except ImportError as error:
        raise ExportError(f"This is a timm model: run `pip install timm` to export it ({error}).") from error
    except RuntimeError as error:
        raise ExportError(
            f"This is a timm model, and timm cannot be imported: {error}. Install the torchvision that was built for "
            "the installed torch: https://pytorch.org/get-started/locally."
        ) from error
    with refusals_as_export_errors(_NAME, folder):
        model = timm.create_model(f"local-dir:{folder}", pretrained=True, exportable=True)
        model = model.to(options.get("device", "cpu"), torch_dtype(options.get("dtype")))
    return model, {name: value for name, value in options.items() if name not in ("dtype", "pad_token_id")}
