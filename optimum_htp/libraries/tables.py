"""The tables of Optimum and transformers: existing tasks, what can be exported for them, and by which classes.

They are read from the sources of the installed packages (`source_constants`), in 0.1 s instead of 3 s for the
imports. If Optimum is already imported, its own tables are used, because other packages may have extended them. A
source that cannot be read in this way is imported.
"""

from __future__ import annotations

import ast
import functools
import importlib
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from optimum_htp.errors import MissingDependencyError
from optimum_htp.libraries.dependencies import needing_optimum_onnx
from optimum_htp.libraries.source_constants import constants, module_file, parsed, value_of
from optimum_htp.masking import get_logger

__all__ = [
    "all_tasks",
    "config_names",
    "diffusion_classes",
    "image_processor_names",
    "is_tokenizer_of_backend",
    "loaders_by_task",
    "model_names",
    "module_of",
    "processor_names",
    "supported_tasks",
    "synonyms",
    "task_classes",
    "tokenizer_names",
    "tokenizer_of_processor",
]

logger = get_logger(__name__)

_MANAGER: Final = "optimum.exporters.tasks"
_SUPPORT: Final = "optimum.exporters.onnx.model_configs"
_MODELS: Final = "transformers.models.auto.modeling_auto"
_CONFIGS: Final = "transformers.models.auto.configuration_auto"
_PROCESSORS: Final = "transformers.models.auto.processing_auto"
_IMAGE_PROCESSORS: Final = "transformers.models.auto.image_processing_auto"
_TOKENIZERS: Final = "transformers.models.auto.tokenization_auto"
_BACKEND: Final = "TokenizersBackend"  # transformers 5: the class, and the base of the classes, that are fast.
# The table of class names in each module. Its source must contain this name; otherwise it has another form.
_EXPECTED: Final = {
    _MODELS: "MODEL_MAPPING_NAMES",
    _CONFIGS: "CONFIG_MAPPING_NAMES",
    _IMAGE_PROCESSORS: "IMAGE_PROCESSOR_MAPPING_NAMES",
    _PROCESSORS: "PROCESSOR_MAPPING_NAMES",
    _TOKENIZERS: "TOKENIZER_MAPPING_NAMES",
}
_UNREADABLE: Final = (OSError, SyntaxError, ValueError, KeyError, TypeError, AttributeError)


def synonyms() -> Mapping[str, str]:
    """Return the synonyms of tasks."""
    return dict(_table("_SYNONYM_TASK_MAP"))


def loaders_by_task() -> Mapping[str, str | tuple[str, ...]]:
    """Return the Auto classes of transformers that load models for a task."""
    return dict(_table("_TRANSFORMERS_TASKS_TO_MODEL_LOADERS"))


def all_tasks() -> frozenset[str]:
    """Return all tasks of Optimum."""
    by_library = _table("_LIBRARY_TO_TASKS_TO_MODEL_LOADER_MAP").values()
    return frozenset(task for tasks in by_library for task in tasks) | {key[2] for key in _table("_CUSTOM_CLASSES")}


def task_classes() -> Mapping[str, Mapping[str, Any]]:
    """Return the classes of transformers for a task, by task and model type."""
    manager = _imported()
    return _task_classes() if manager is None else manager._TRANSFORMERS_TASKS_TO_MODEL_MAPPINGS


def diffusion_classes() -> Mapping[str, Mapping[str, str]]:
    """Return the pipelines of diffusers for a task. The table contains classes, so diffusers is imported."""
    manager = _manager()
    return manager._DIFFUSERS_TASKS_TO_MODEL_MAPPINGS if manager is not None else {}


def supported_tasks(model_type: str, library: str) -> frozenset[str]:
    """Return the tasks that a model type can be exported for; empty if the type or the exporter is unknown."""
    if _imported() is None and (table := _supported_tasks()) is not None:
        return frozenset(table.get((library, model_type), ()))
    try:
        with needing_optimum_onnx("The list of exportable tasks"):
            import optimum.exporters.onnx.model_configs  # noqa: F401 - registers what the exporter supports
            from optimum.exporters.tasks import TasksManager

        return frozenset(TasksManager.get_supported_tasks_for_model_type(model_type, "onnx", library_name=library))
    except (MissingDependencyError, KeyError):
        # Nothing can be exported without optimum-onnx, but existing files have tasks. Optimum itself reports an
        # unknown model type, with more detail.
        return frozenset()


@functools.cache
def model_names() -> Mapping[str, Mapping[str, Any]]:
    """Return transformers' tables of classes by model type, by their names in `modeling_auto`."""
    tables = _constants(_MODELS)
    return {name: table for name, table in tables.items() if name.endswith("_MAPPING_NAMES")}


@functools.cache
def config_names() -> Mapping[str, str]:
    """Return the names of transformers' config classes by model type."""
    return _names_in(_CONFIGS)


@functools.cache
def image_processor_names() -> Mapping[str, Any]:
    """Return the names of transformers' image processor classes by model type, independent of installed packages."""
    return _names_in(_IMAGE_PROCESSORS)


@functools.cache
def processor_names() -> Mapping[str, Any]:
    """Return the names of transformers' processor classes by model type."""
    return _names_in(_PROCESSORS)


@functools.cache
def tokenizer_names() -> Mapping[str, Any]:
    """Return the names of transformers' slow and fast tokenizer classes by model type."""
    added = _constants(_TOKENIZERS).get("MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS", ())  # transformers 5: in a loop.
    return {**dict.fromkeys(added, _BACKEND), **_names_in(_TOKENIZERS)}


def is_tokenizer_of_backend(name: str) -> bool:
    """Whether a tokenizer class of transformers 5 reads only `tokenizer.json` if this file exists."""
    return name in _tokenizers_of_backend()


@functools.cache
def _tokenizers_of_backend() -> frozenset[str]:
    package = module_file("transformers")
    files = [] if package is None else package.parent.glob("models/*/tokenization_*.py")
    defined = re.compile(rf"class (\w+)\({_BACKEND}\)")
    return frozenset(
        {_BACKEND, *(name for file in files for name in defined.findall(file.read_text(encoding="utf-8")))}
    )


def tokenizer_of_processor(name: str) -> Any:
    """Return the tokenizer class or classes that a processor class of transformers names; None if it names none."""
    package = module_file("transformers")
    for model_type in (key for key, value in processor_names().items() if value == name):
        folders = (package or Path()).parent.glob(f"models/**/{module_of(model_type)}")  # Also below `deprecated`.
        for file in sorted(file for folder in folders for file in folder.glob("processing_*.py")):
            try:
                members = constants(file).get(name)
            except _UNREADABLE as error:
                logger.debug("%s cannot be read: %s", file, error)
                continue
            if isinstance(members, dict):
                return members.get("tokenizer_class")
    return None


def module_of(model_type: str) -> str:
    """Return the folder name of a model type in transformers."""
    special = _constants(_CONFIGS).get("SPECIAL_MODEL_TYPE_TO_MODULE_NAME", {})
    return str(special.get(model_type, model_type.replace("-", "_")))


@functools.cache
def _task_classes() -> Mapping[str, Mapping[str, Any]]:
    models = _constants(_MODELS)
    found: dict[str, dict[str, Any]] = {}
    for task, loaders in loaders_by_task().items():
        found[task] = {}
        for loader in (loaders,) if isinstance(loaders, str) else loaders:
            found[task].update(models.get(loader, {}).get("_model_mapping", {}))
    return found


@functools.cache
def _supported_tasks() -> Mapping[tuple[str, str], Iterable[str]] | None:
    """Return the tasks by library and model type from the decorators in optimum-onnx; None if they cannot be read."""
    file = module_file(_SUPPORT)
    if file is None:
        return None
    try:
        module, names = parsed(file), constants(file)
    except _UNREADABLE as error:
        logger.debug("%s is imported, because its source cannot be read: %s", file, error)
        return None
    registers = {
        target.id
        for node in module.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
        for target in node.targets
        if isinstance(target, ast.Name)
        and isinstance(node.value.func, ast.Attribute)
        and node.value.func.attr == "create_register"
    }
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for node in module.body:
        for call in node.decorator_list if isinstance(node, ast.ClassDef) else ():
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in registers:
                given = value_of(ast.Tuple(call.args, ast.Load()), names)
                keywords = {keyword.arg: value_of(keyword.value, names) for keyword in call.keywords}
                if not given:
                    return None
                found[keywords.get("library_name", "transformers"), given[0]].update(given[1:])
    return found or None


def _table(name: str) -> Any:
    """Return a table of `TasksManager`."""
    if (manager := _imported()) is not None:
        return getattr(manager, name, {})
    file = module_file(_MANAGER)
    try:
        return constants(file)["TasksManager"][name] if file is not None else {}
    except _UNREADABLE as error:
        logger.debug("%s is imported, because %s in its source cannot be read: %s", file, name, error)
    return getattr(_manager(), name, {})


def _imported() -> Any:
    """Return Optimum's class of tables if it is already imported."""
    return getattr(sys.modules.get(_MANAGER), "TasksManager", None)


def _manager() -> Any:
    """Import Optimum's class of tables; None if the import fails."""
    try:
        from optimum.exporters.tasks import TasksManager
    except (ImportError, AttributeError, RuntimeError) as error:  # Lazy modules raise these too.
        logger.info("Optimum's tables of tasks cannot be imported: %s", error)
        return None
    return TasksManager


def _names_in(module: str) -> Mapping[str, Any]:
    """Return the table of class names in a module of transformers."""
    names: Mapping[str, Any] = _constants(module)[_EXPECTED[module]]
    return names


def _constants(name: str) -> Mapping[str, Any]:
    """Return the constants of a module of transformers; the module is imported if its source cannot be read."""
    file = module_file(name)
    try:
        if file is not None and _EXPECTED[name] in (found := constants(file)):
            return found
    except _UNREADABLE as error:
        logger.debug("%s is imported, because its source cannot be read: %s", file, error)
    tables = dict(vars(importlib.import_module(name)))
    for key, value in vars(importlib.import_module(_MODELS)).items() if name == _MODELS else ():
        mapping = getattr(getattr(value, "_model_mapping", None), "_model_mapping", None)
        if mapping is not None:
            tables[key] = {"_model_mapping": mapping}
    return tables
