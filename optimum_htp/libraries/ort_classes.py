"""The class of optimum-onnx for an ONNX file, found by inspection of the installed classes."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Final

from optimum_htp.errors import ConfigLoadError
from optimum_htp.libraries.dependencies import needing_optimum_onnx
from optimum_htp.libraries.tasks import WITH_PAST, as_set, canonical_task
from optimum_htp.metadata import ExportMetadata
from optimum_htp.onnxfile import read_signature

if TYPE_CHECKING:
    from optimum.onnxruntime import ORTModel

__all__ = ["AUTO", "class_for", "is_a"]

AUTO: Final = "auto"


def class_for(file: Path, record: ExportMetadata | None, task: str = AUTO) -> type[ORTModel]:
    """Return the class that runs a file for a task; `auto` is the task in the record.

    Raises:
        ConfigLoadError: The file contains no task.
        MissingDependencyError: optimum-onnx is not installed.
    """
    with needing_optimum_onnx(f"Loading {file}"):
        import optimum.onnxruntime as ort
        from optimum.exporters.tasks import TasksManager
        from optimum.onnxruntime.modeling_seq2seq import ORTModelForConditionalGeneration

    if task == AUTO and (record is None or record.task is None):
        raise ConfigLoadError(f"{file} contains no task: pass task=, or stamp it with `optimum-cli htp inject`.")
    name = canonical_task(str(record.task if record is not None and task == AUTO else task)).removesuffix(WITH_PAST)
    several = record is not None and len(record.onnx_files) > 1
    fallback: type[ORTModel] = ort.ORTModelForCustomTasks
    loaders = as_set(TasksManager._TRANSFORMERS_TASKS_TO_MODEL_LOADERS.get(name))
    found: list[type[ORTModel]] = []
    for attribute in dir(ort):
        if attribute.startswith("ORTModelFor") and attribute != fallback.__name__:
            candidate = getattr(ort, attribute)
            if several != issubclass(candidate, ORTModelForConditionalGeneration):
                continue
            if candidate.auto_model_class.__name__ in loaders or _is_for(candidate, name):
                found.append(candidate)
    inputs, outputs = ({spec.name for spec in specs} for specs in read_signature(file))
    if not found or (
        not several and found == [ort.ORTModelForFeatureExtraction] and "last_hidden_state" not in outputs
    ):
        return fallback
    architecture = record.model_class if record is not None else None
    chosen = found[0]
    for candidate in found:  # Several classes run one task: the model's class decides.
        names = getattr(getattr(candidate.auto_model_class, "_model_mapping", None), "_model_mapping", {})
        if architecture in names.values():
            chosen = candidate
            break
    return chosen if several or _passes_on(chosen, inputs) else fallback


def _passes_on(cls: type[ORTModel], inputs: Collection[str]) -> bool:
    """Whether a class passes all of its inputs to a file. Classes for text pass no boxes.

    Generators create some inputs.
    """
    return hasattr(cls, "generate") or {*inputs} <= {*inspect.signature(cls.forward).parameters}


def _is_for(candidate: type[ORTModel], task: str) -> bool:
    """Whether Optimum infers a task from the model class behind one of its classes."""
    from optimum.exporters.tasks import TasksManager

    try:
        inferred = TasksManager._infer_task_from_model_or_model_class(model_class=candidate.auto_model_class)
    except ValueError:  # The class has no task of transformers.
        return False
    return bool(inferred == task)


def is_a(cls: type, name: str) -> bool:
    """Whether a class is or extends a class of Optimum, by name, because importing that class takes long."""
    return any(base.__name__ == name and base.__module__.startswith("optimum.onnxruntime") for base in cls.__mro__)
