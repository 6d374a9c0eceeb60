"""What to export a model for, where the user did not say: its library and its Optimum task.

Optimum infers both from the Hub, for Hub ids only. Here they are decided from what is known of a commit: the
names of its files, its config, and the Hub's pipeline tag. What is installed plays no part.

Where Optimum's tables of tasks cannot be imported, a task is what it is called: synonyms and classes are not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from optimum_htp.errors import ExportError
from optimum_htp.libraries.names import CONFIG, MODEL_INDEX, SENTENCE_MODULES
from optimum_htp.libraries.tables import (
    all_tasks,
    diffusion_classes,
    loaders_by_task,
    model_names,
    supported_tasks,
    synonyms,
    task_classes,
)

__all__ = [
    "WITH_PAST",
    "architectures",
    "as_set",
    "canonical_task",
    "tasks_of_class",
    "class_for_task",
    "encoder_alone",
    "is_task",
    "infer_library",
    "infer_task",
    "model_type_of",
    "with_past",
]

WITH_PAST: Final = "-with-past"  # ends the name of a task that reuses past key values
_FEATURES: Final = "feature-extraction"


def infer_library(files: Iterable[str], config: Mapping[str, Any]) -> str:
    """Return the library that a repo's weights are for.

    A repo of sentence_transformers holds a transformers model and exports as such unless the user says
    otherwise: its export as sentence_transformers would have no `last_hidden_state`. One whose transformer lies in a
    folder of its own holds none that transformers finds.
    """
    files = set(files)
    if MODEL_INDEX in files:
        return "diffusers"
    if "pretrained_cfg" in config or "architecture" in config:
        return "timm"
    if SENTENCE_MODULES in files and CONFIG not in files and not config:
        return "sentence_transformers"
    return "transformers"


def infer_task(config: Mapping[str, Any], library: str, pipeline_tag: str | None) -> str:
    """Return the Optimum task that a model is for.

    The Hub's pipeline tag counts where the exporter supports that task for this type of model, then the class
    that the config says the checkpoint was saved from.

    Args:
        config: Content of `config.json` (for diffusers `model_index.json`).
        library: As `infer_library` returns.
        pipeline_tag: As the Hub says, None where it says nothing.

    Raises:
        ExportError: Neither tells.
    """
    if library == "timm":
        return "image-classification"
    if library == "sentence_transformers":
        return _FEATURES
    tagged = canonical_task(pipeline_tag) if pipeline_tag and (is_task(pipeline_tag) or not all_tasks()) else None
    if library == "diffusers":
        task = tagged or _diffusers_task(str(config.get("_class_name")))
    else:
        supported = supported_tasks(model_type_of(config), library)
        if tagged is not None and (tagged in supported or not supported):
            return str(tagged)
        task = _task_of_class(config, supported) or tagged
    if task is None:
        known = "belong to no task" if all_tasks() else "cannot be looked up without Optimum's exporters"
        raise ExportError(
            f"The task cannot be inferred: the pipeline tag is {pipeline_tag!r}, and the config's architectures "
            f"({config.get('architectures')}) {known}. Give --task, one of: "
            f"{', '.join(sorted(all_tasks()))}."
        )
    return str(task)


def canonical_task(task: str) -> str:
    """Return the name that Optimum keeps for a task that was given by a synonym (`masked-lm`)."""
    return synonyms().get(task, task)


def is_task(task: str) -> bool:
    """Whether Optimum knows a task."""
    return canonical_task(task).removesuffix(WITH_PAST) in all_tasks()


def with_past(task: str, config: Mapping[str, Any], library: str) -> str:
    """Return the variant of an inferred task that reuses past key values, where the exporter has it."""
    past = task + WITH_PAST
    return past if library == "transformers" and past in supported_tasks(model_type_of(config), library) else task


def model_type_of(config: Mapping[str, Any]) -> str:
    """Return a config's model type as transformers reads it, empty where it has none."""
    return str(config.get("model_type") or ("timm_wrapper" if "pretrained_cfg" in config else ""))


def _task_of_class(config: Mapping[str, Any], supported: Iterable[str]) -> str | None:
    """Return the task whose Auto class would load the class in `config.architectures`.

    A class that serves several tasks (`CLIPModel`) is taken for the most specific.
    """
    tasks = tasks_of_class(config)
    allowed = [task for task in tasks if task in supported] or tasks
    specific = [task for task in allowed if task != _FEATURES]
    return next(iter(specific or allowed), None)


def tasks_of_class(config: Mapping[str, Any]) -> list[str]:
    """Return the Optimum tasks that the class in `config.architectures` serves, none where that is not known."""
    model_type, names = model_type_of(config), set(architectures(config))
    tasks = [task for task, classes in task_classes().items() if names & as_set(classes.get(model_type))]
    if tasks:
        return tasks
    if names & as_set(model_names()["MODEL_FOR_PRETRAINING_MAPPING_NAMES"].get(model_type)):
        return [_FEATURES]  # Optimum's synonym of "pretraining"
    return _tasks_of_auto_map(config, names)


def encoder_alone(config: Mapping[str, Any]) -> str | None:
    """Return the class of a model that is no more than the encoder of a larger one (`T5EncoderModel`), else None."""
    found = next((name for name in architectures(config) if name.endswith("EncoderModel")), None)
    whole = as_set(task_classes().get(_FEATURES, {}).get(model_type_of(config)))
    return found if whole and found is not None and not tasks_of_class(config) else None


def _tasks_of_auto_map(config: Mapping[str, Any], names: set[str]) -> list[str]:
    """Return the tasks of a class that comes with the repo, by the Auto class that it is mapped from."""
    auto_map = config.get("auto_map")
    autos = auto_map.items() if isinstance(auto_map, dict) else ()
    mapped = {auto_class for auto_class, path in autos if str(path).rpartition(".")[2] in names}
    return [task for task, loaders in loaders_by_task().items() if mapped & as_set(loaders)]


def _diffusers_task(class_name: str) -> str | None:
    for task, classes in diffusion_classes().items():
        if class_name in classes.values():
            return str(task)
    return None


def architectures(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the class names in a config, none where somebody wrote something else there."""
    names = config.get("architectures")
    return tuple(map(str, names)) if isinstance(names, list) else ()


def as_set(names: str | Iterable[str] | None) -> set[str]:
    """Return the class names in an entry of transformers' tables."""
    return {names} if isinstance(names, str) else set(names or ())


def class_for_task(task: str, config: Mapping[str, Any], library: str) -> str | None:
    """Return the name of the class that would be exported for a task, None where that cannot be told."""
    names = architectures(config)
    if library != "transformers":
        return str(config["_class_name"]) if "_class_name" in config else None
    mapping = task_classes().get(task.removesuffix(WITH_PAST), {})
    classes = as_set(mapping.get(model_type_of(config)))
    return next((name for name in names if name in classes), None) or next(iter(sorted(classes)), None)
