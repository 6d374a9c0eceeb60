"""The library and the Optimum task of a model, if the user did not name them.

Optimum infers both from the Hub, for repo ids only. Here they are inferred from a commit: from its file names, its
config, and the Hub's pipeline tag. The installed packages do not matter.

If Optimum's tables of tasks cannot be imported, a task keeps its name, and synonyms and classes are unknown.
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
from optimum_htp.suggestions import did_you_mean

__all__ = [
    "WITH_PAST",
    "architectures",
    "as_set",
    "canonical_task",
    "tasks_of_class",
    "class_for_task",
    "encoder_alone",
    "check_task",
    "hint_at_task",
    "is_task",
    "infer_library",
    "infer_task",
    "model_type_of",
    "with_past",
]

WITH_PAST: Final = "-with-past"  # The end of the name of a task with past key values.
_FEATURES: Final = "feature-extraction"


def infer_library(files: Iterable[str], config: Mapping[str, Any]) -> str:
    """Return the library for a repo's weights.

    A repo of sentence_transformers contains a transformers model, and is exported as such unless the user names the
    library: an export as sentence_transformers would have no `last_hidden_state`. If its transformer is in a folder of
    its own, transformers does not find a model.
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
    """Return the Optimum task of a model.

    The Hub's pipeline tag is used if the exporter supports that task for this model type. Otherwise, the class in the
    config (for diffusers `model_index.json`) is used.

    Raises:
        ExportError: The task cannot be inferred.
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
        known = "have no task" if all_tasks() else "cannot be looked up without Optimum's exporters"
        raise ExportError(
            f"The task cannot be inferred: the pipeline tag is {pipeline_tag!r}, and the config's architectures "
            f"({config.get('architectures')}) {known}. Pass --task, one of: {', '.join(sorted(all_tasks()))}."
        )
    return str(task)


def canonical_task(task: str) -> str:
    """Return Optimum's name of a task for a synonym (`masked-lm`)."""
    return synonyms().get(task, task)


def check_task(task: str) -> None:
    """Reject a name that is not a task; the message suggests a similar one."""
    if not is_task(task):
        raise ExportError(f"{task!r} is not a task of Optimum.{hint_at_task(task)} Omit the task to infer it.")


def hint_at_task(task: str) -> str:
    """Return a sentence that suggests the most similar task for a name that is not a task; empty without one."""
    return "" if is_task(task) else did_you_mean(task, all_tasks())


def is_task(task: str) -> bool:
    """Whether Optimum knows a task."""
    return canonical_task(task).removesuffix(WITH_PAST) in all_tasks()


def with_past(task: str, config: Mapping[str, Any], library: str) -> str:
    """Return the variant of an inferred task with past key values, if the exporter supports it."""
    past = task + WITH_PAST
    return past if library == "transformers" and past in supported_tasks(model_type_of(config), library) else task


def model_type_of(config: Mapping[str, Any]) -> str:
    """Return a config's model type as transformers reads it; empty without one."""
    return str(config.get("model_type") or ("timm_wrapper" if "pretrained_cfg" in config else ""))


def _task_of_class(config: Mapping[str, Any], supported: Iterable[str]) -> str | None:
    """Return the task whose Auto class would load the class in `config.architectures`.

    For a class with several tasks (`CLIPModel`), the most specific task is returned.
    """
    tasks = tasks_of_class(config)
    allowed = [task for task in tasks if task in supported] or tasks
    specific = [task for task in allowed if task != _FEATURES]
    return next(iter(specific or allowed), None)


def tasks_of_class(config: Mapping[str, Any]) -> list[str]:
    """Return the Optimum tasks of the class in `config.architectures`; empty if they are unknown."""
    model_type, names = model_type_of(config), set(architectures(config))
    tasks = [task for task, classes in task_classes().items() if names & as_set(classes.get(model_type))]
    if tasks:
        return tasks
    if names & as_set(model_names()["MODEL_FOR_PRETRAINING_MAPPING_NAMES"].get(model_type)):
        return [_FEATURES]  # Optimum's synonym of "pretraining"
    return _tasks_of_auto_map(config, names)


def encoder_alone(config: Mapping[str, Any]) -> str | None:
    """Return the class of a model that is only the encoder of a larger one (`T5EncoderModel`); None for others."""
    found = next((name for name in architectures(config) if name.endswith("EncoderModel")), None)
    whole = as_set(task_classes().get(_FEATURES, {}).get(model_type_of(config)))
    return found if whole and found is not None and not tasks_of_class(config) else None


def _tasks_of_auto_map(config: Mapping[str, Any], names: set[str]) -> list[str]:
    """Return the tasks of a class from the repo, by the Auto class that it is mapped from."""
    auto_map = config.get("auto_map")
    autos = auto_map.items() if isinstance(auto_map, dict) else ()
    mapped = {auto_class for auto_class, path in autos if str(path).rpartition(".")[2] in names}
    return [task for task, loaders in loaders_by_task().items() if mapped & as_set(loaders)]


def _diffusers_task(class_name: str) -> str | None:
    return next((task for task, classes in diffusion_classes().items() if class_name in classes.values()), None)


def architectures(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the class names in a config; empty if the value has another form."""
    names = config.get("architectures")
    return tuple(map(str, names)) if isinstance(names, list) else ()


def as_set(names: str | Iterable[str] | None) -> set[str]:
    """Return the class names in an entry of transformers' tables."""
    return {names} if isinstance(names, str) else set(names or ())


def class_for_task(task: str, config: Mapping[str, Any], library: str) -> str | None:
    """Return the name of the class that would be exported for a task; None if it is unknown."""
    if library != "transformers":
        return str(config["_class_name"]) if "_class_name" in config else None
    mapping = task_classes().get(task.removesuffix(WITH_PAST), {})
    classes = as_set(mapping.get(model_type_of(config)))
    return next((name for name in architectures(config) if name in classes), None) or next(iter(sorted(classes)), None)
