"""transformers' own exporters (`transformers.exporters`): all architectures, and files for its `ExportedModel`.

They trace one graph, or one graph per generation stage (`prefill`, `decode`; for multimodal models also encoder,
projector and language model). The model class and the sample inputs are chosen here.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib import metadata
from typing import Any, Final

from optimum_htp.errors import ExportError, OptionError
from optimum_htp.export.engines.base import EXPORTING, Work, check_precision, refusals_as_export_errors, torch_dtype
from optimum_htp.export.engines.programs import manifest_of_components, save_programs, warn_of_fixed_sizes
from optimum_htp.export.loaded_weights import lacking
from optimum_htp.export.subject import ExportSubject
from optimum_htp.hierarchy.capture import ExportedParts
from optimum_htp.libraries.dependencies import has_transformers_exporters
from optimum_htp.libraries.names import EXPORT_MANIFEST
from optimum_htp.libraries.repo_files import base_to_load
from optimum_htp.libraries.sample_inputs import BATCH_SIZE, SEQUENCE_LENGTH, WHOLE, sample_inputs, traced_parts
from optimum_htp.libraries.tables import all_tasks, model_names
from optimum_htp.libraries.tasks import (
    WITH_PAST,
    architectures,
    as_set,
    class_for_task,
    hint_at_task,
    infer_task,
    model_type_of,
    tasks_of_class,
)
from optimum_htp.masking import get_logger

__all__ = ["TransformersEngine"]

logger = get_logger(__name__)

_NEEDED: Final = ("onnx", "onnxscript")
_SINCE: Final = "5.24"
_HINT: Final = " If the model needs other inputs, pass sample_inputs= to HTPExporter().export."
_LOADING_ONLY: Final = ("dtype", "trust_remote_code")
# Optimum's exporter does this during its export; this engine does not.
_IGNORED: Final = ("use_subprocess", "framework", "do_validation", "atol", "no_post_process")
_TABLE: Final = ("MODEL_FOR_", "_MAPPING_NAMES")
_FEATURES: Final = "feature-extraction"
_LISTED: Final = 3  # Weights that an error lists.


@dataclasses.dataclass(frozen=True)
class _Options:
    """The options of the engine.

    Attributes:
        sample_inputs: Inputs to trace the model with, by name; inputs of `generate` for a generative task.
        dynamic: Whether input sizes are dynamic.
        opset: ONNX opset version.
        optimize: Whether onnxscript optimizes the graph.
        dtype: `fp32`, `fp16` or `bf16`.
        device: Device to trace on.
        trust_remote_code: Whether code of the model's repo may run.
        batch_size, sequence_length: Sizes of the sample inputs.
    """

    sample_inputs: Mapping[str, Any] | None = None
    dynamic: bool = True
    opset: int | None = None
    optimize: bool = True
    dtype: str | None = None
    device: str = "cpu"
    trust_remote_code: bool = False
    batch_size: int = BATCH_SIZE
    sequence_length: int = SEQUENCE_LENGTH


class TransformersEngine:
    """transformers' own exporters. `ExportedModel` loads their files; `ORTModel` loads those of a single graph.

    Args:
        asked_for: Whether the user named the engine. Otherwise it rejects a class whose weights a checkpoint lacks.
    """

    name = "transformers"

    def __init__(self, *, asked_for: bool = True) -> None:
        self._asked_for = asked_for

    def missing(self) -> str | None:
        """Return which transformers or which package is missing, with the command that helps."""
        if not has_transformers_exporters():
            return (
                f"--engine transformers needs transformers {_SINCE} or newer, and {_installed()} is installed. "
                f'Run `pip install "transformers>={_SINCE}" onnxscript`.'
            )
        if lacking := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
            return f"--engine transformers needs {' and '.join(lacking)}. Run `pip install {' '.join(lacking)}`."
        try:
            from transformers.exporters import OnnxExporter

            _quietly(OnnxExporter)
        except (ImportError, RuntimeError) as error:  # Packages that are too old.
            from optimum_htp.libraries.import_failures import broken_package, root_cause

            return f"--engine transformers cannot run here: {broken_package(error) or root_cause(error)}"
        return None

    def options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return a user's options, named as on the command line of Optimum's exporter.

        Options that have the default of that command line are ignored.
        """
        check_precision(options)
        known = {field.name for field in dataclasses.fields(_Options)}
        given = {name: value for name, value in options.items() if value is not None and name not in _IGNORED}
        if given.pop("no_dynamic_axes", False):
            given["dynamic"] = False
        taken = {name: value for name, value in given.items() if name in known}
        defaults = _optimums_defaults()
        for name in given.keys() - known:
            if given[name] is not False and given[name] != defaults.get(name, name):
                raise OptionError(f"transformers' own exporters have no option {name!r}: leave it out.")
        if isinstance(taken.get("optimize"), str):
            raise OptionError(
                f"transformers' own exporters have no optimization level {taken['optimize']!r}: leave it out."
            )
        return taken

    def infer_task(self, subject: ExportSubject, options: Mapping[str, Any]) -> str:
        """Return the task from the Hub or from the checkpoint's class, with past if the class generates."""
        _refuse_pipelines(subject)
        try:
            task = infer_task(subject.config, subject.library, subject.pipeline_tag)
        except ExportError:
            task = _task_of_class(subject.config)
        if not _is_served(task, subject.config):  # The pipeline tag comes from the model card and may be wrong.
            task = _task_of_class(subject.config)
        if subject.model is not None:
            model_class = type(subject.model)
        else:
            model_class = _class_for(task, subject.config, trusted=bool(options.get("trust_remote_code")))
        if task != _FEATURES and getattr(model_class, "can_generate", bool)() and not task.endswith(WITH_PAST):
            task += WITH_PAST
        logger.info("The task was inferred: %s", task)
        return task

    def export(self, work: Work) -> tuple[type, ExportedParts]:
        """Export with transformers; return the exported class, and its parts."""
        from transformers.exporters import OnnxConfig, OnnxExporter

        _refuse_pipelines(work.subject)
        options = _Options(**work.options)
        hint = "" if options.sample_inputs is not None else _HINT
        name = work.subject.name
        with EXPORTING.held(), refusals_as_export_errors(self.name, name):
            model = self._loaded(work)
        with EXPORTING.held(), refusals_as_export_errors(self.name, name, hint):
            config = OnnxConfig(dynamic=options.dynamic, opset_version=options.opset, optimize=options.optimize)
            with _repeatable(model), redirect_stdout(sys.stderr):  # PyTorch prints its progress
                parts = _parts(model, work, options)
                exporter = OnnxExporter()
                components = {
                    name: exporter.export(part, given, config).components[WHOLE]
                    for name, (part, given) in parts.items()
                }
            programs = {name: component.program for name, component in components.items()}
            save_programs(programs, work.folder)
            if options.dynamic:
                warn_of_fixed_sizes(work.subject.name, programs)
            manifest = manifest_of_components({name: component.metadata for name, component in components.items()})
            (work.folder / EXPORT_MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
            if work.subject.model is not None or work.subject.checkpoint is None:
                model.config.save_pretrained(work.folder)
                if model.can_generate() and model.generation_config is not None:
                    model.generation_config.save_pretrained(work.folder)
        noted = ExportedParts(work.folder, lambda: model)
        for name, (part, _) in parts.items() if work.hierarchy else ():
            noted.try_to_add(f"{name}.onnx", part, {})
        return type(model), noted

    def _loaded(self, work: Work) -> Any:
        """Return the model, ready to be traced."""
        subject, task, options = work.subject, work.task, work.options
        if subject.model is not None:
            if refused := [name for name in _LOADING_ONLY if options.get(name)]:
                raise OptionError(
                    f"{', '.join(refused)} cannot be set for a model in memory. Change the model before the export."
                )
            return subject.model
        assert subject.checkpoint is not None  # a subject has a model or a checkpoint
        config, trusted = subject.checkpoint.config, bool(options.get("trust_remote_code"))
        if not _is_served(task, config):
            raise ExportError(
                f"transformers has no class of {model_type_of(config)} models for {task}.{hint_at_task(task)} "
                f"{_fitting(config)}"
            )
        model_class = _class_for(task, config, trusted=trusted)
        dtype = torch_dtype(options.get("dtype"))
        folder = subject.checkpoint.folder
        base = base_to_load(folder)  # Files on this machine, at a commit.
        model, report = model_class.from_pretrained(
            base or folder, dtype=dtype, trust_remote_code=trusted, output_loading_info=True
        )
        if base is not None:
            model.load_adapter(str(folder))
        if not self._asked_for and (missing := lacking(model, report)):
            more = f" (and {len(missing) - _LISTED} more)" if len(missing) > _LISTED else ""
            raise ExportError(
                f"The checkpoint of {subject.name} has no {', '.join(missing[:_LISTED])}{more}, which "
                f"{type(model).__name__} needs for {task}. {_fitting(config)} To export the model with random values "
                "for these weights, pass --engine transformers."
            )
        return model.eval().to(options.get("device", "cpu"))


def _parts(model: Any, work: Work, options: _Options) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Return the modules that are traced, with their inputs, by the name of the component."""
    generates, checkpoint = work.task.endswith(WITH_PAST), work.subject.checkpoint
    inputs = options.sample_inputs or sample_inputs(
        model,
        checkpoint.folder if checkpoint is not None else None,
        generates=generates,
        batch_size=options.batch_size,
        sequence_length=options.sequence_length,
    )
    return traced_parts(model, dict(inputs), generates=generates)


@contextmanager
def _repeatable(model: Any) -> Iterator[None]:
    """Trace in evaluation mode with fixed random inputs; restore the model's mode and PyTorch's random state."""
    import torch

    training = model.training
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.eval()
        try:
            yield
        finally:
            model.train(training)


def _installed() -> str:
    try:
        return metadata.version("transformers")
    except metadata.PackageNotFoundError:
        return "none"


def _optimums_defaults() -> dict[str, Any]:
    """Return the default values of the options of Optimum's command line."""
    try:
        from optimum.utils import DEFAULT_DUMMY_SHAPES
    except ImportError:
        return {"variant": "default"}
    return {"variant": "default", **DEFAULT_DUMMY_SHAPES}


def _quietly(exporter: Any) -> None:
    """Create an exporter, which checks the installed packages, without its warning about versions."""
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        exporter()
    finally:
        transformers_logging.set_verbosity(level)


def _is_served(task: str, config: Mapping[str, Any]) -> bool:
    """Whether transformers has a class of a type of model for a task; true where Optimum's tables cannot be read.

    A base model does not count: Optimum loads models for some tasks with `AutoModel`, which has one of every type.
    """
    if not all_tasks() or task.removesuffix(WITH_PAST) in (_FEATURES, _task_of_class(config), *tasks_of_class(config)):
        return True
    name = class_for_task(task, config, "transformers")
    return name is not None and name not in as_set(model_names()["MODEL_MAPPING_NAMES"].get(model_type_of(config)))


def _refuse_pipelines(subject: ExportSubject) -> None:
    if subject.library == "diffusers":
        raise ExportError(
            f"transformers' own exporters do not export pipelines of diffusers such as {subject.name}. Leave out "
            "--engine: Optimum's exporter supports them."
        )


def _fitting(config: Mapping[str, Any]) -> str:
    """Return a sentence that lists the tasks for which a checkpoint has all weights."""
    tasks = tasks_of_class(config) or [_task_of_class(config)]
    return f"Tasks that fit the checkpoint ({', '.join(architectures(config))}): {', '.join(sorted(tasks))}."


def _task_of_class(config: Mapping[str, Any]) -> str:
    """Return a task for a class without an Optimum task: the name of transformers' table of such classes."""
    names = set(architectures(config))
    for table, classes in model_names().items():
        found = classes.get(model_type_of(config))
        if names & as_set(found) and table.startswith(_TABLE[0]):
            return table.removeprefix(_TABLE[0]).removesuffix(_TABLE[1]).lower().replace("_", "-")
    return _FEATURES


def _class_for(task: str, config: Mapping[str, Any], *, trusted: bool) -> Any:
    """Return the class to load a checkpoint as for a task: its own class if that supports the task."""
    import transformers

    names = architectures(config)
    name = class_for_task(task, config, "transformers") or next(iter(names), None)
    found = getattr(transformers, name, None) if name is not None else None
    auto_map = config.get("auto_map")
    if found is None and trusted and isinstance(auto_map, dict):
        autos = [auto for auto, path in auto_map.items() if str(path).rpartition(".")[2] in names]
        found = next((getattr(transformers, auto, None) for auto in autos), None)
    return found if found is not None else transformers.AutoModel
