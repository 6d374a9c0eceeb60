"""Facts about a model's class from the source of transformers: the inputs of its `forward`, and whether it generates.

They are read from the syntax trees of the file that defines the class and of the files of its bases, without an
import.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from optimum_htp.libraries.source_constants import import_target, module_file, parsed
from optimum_htp.libraries.tables import config_names, model_names, module_of

__all__ = ["ModelSource", "default_in_config", "is_named_in_source", "source_of_model"]

_PLAIN: Final = {"main_input_name": "input_ids", "base_model_prefix": ""}  # The values of PreTrainedModel.
_GENERATES: Final = "GenerationMixin"


@dataclass(frozen=True)
class ModelSource:
    """Facts from the source of a model's class: the names of the inputs of its `forward`, and of the main one.

    `prefix` is the name of the base model inside a model with a head.
    """

    inputs: frozenset[str]
    main_input: str
    prefix: str
    generates: bool


@dataclass(frozen=True)
class _Class:
    node: ast.ClassDef
    file: Path


def source_of_model(model_type: str, class_name: str | None) -> ModelSource | None:
    """Return the facts from the source of a class, or of the class that `AutoModel` uses if the class does not exist.

    None if transformers does not know the model type, or the source does not contain the facts.
    """
    if model_type not in config_names():
        return None
    plain = str(class_name).removeprefix("TF").removeprefix("Flax")
    default = model_names()["MODEL_MAPPING_NAMES"].get(model_type)
    names = [plain, *((default,) if isinstance(default, str) else default or ())]
    try:
        found = next(filter(None, (_defined(model_type, name, "modeling") for name in names)), None)
        return _described(found) if found is not None else None
    except (OSError, SyntaxError, ValueError):  # The source is missing, or this Python cannot parse it.
        return None


def is_named_in_source(model_type: str, name: str) -> bool | None:
    """Whether the source of a model type contains a name; None if transformers does not have that source."""
    if model_type not in config_names():
        return None
    try:
        texts = [file.read_text("utf-8") for file in _files(model_type, "modeling")]
    except (OSError, ValueError):
        return None
    return any(name in text for text in texts) if texts else None


def default_in_config(model_type: str, name: str) -> tuple[str, Any] | None:
    """Return the key of an attribute in the `config.json` of a model type, and its default value.

    None if the source does not contain them.
    """
    try:
        config = _defined(model_type, config_names().get(model_type, ""), "configuration")
        return _default(config, name) if config is not None else None
    except (OSError, SyntaxError, ValueError):
        return None


def _default(config: _Class, name: str) -> tuple[str, Any] | None:
    key = next((str(value[name]) for value in _literals(config, "attribute_map") if name in value), name)
    for each in _bases_and_self(config):
        for node in each.node.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == key:
                return key, _literal(node.value)
            if isinstance(node, ast.FunctionDef) and node.name == key:
                return None  # A computed value.
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                given = node.args.args[len(node.args.args) - len(node.args.defaults) :]
                defaults = {
                    argument.arg: _literal(default)
                    for argument, default in zip(given, node.args.defaults, strict=True)
                }
                if key in defaults:
                    return key, defaults[key]
                if (other := _set_from(node, key)) is not None and other in defaults:
                    return other, defaults[other]
    return None


def _set_from(method: ast.FunctionDef, attribute: str) -> str | None:
    """Return the argument that a method sets an attribute to: `self.num_hidden_layers = encoder_layers`."""
    for node in ast.walk(method):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
            for target in node.targets:
                if isinstance(target, ast.Attribute) and target.attr == attribute:
                    return node.value.id
    return None


def _described(model: _Class) -> ModelSource | None:
    for each in _bases_and_self(model):
        for node in each.node.body:
            if isinstance(node, ast.FunctionDef) and node.name == "forward":
                arguments = node.args
                named = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
                every = (*named, *filter(None, (arguments.vararg, arguments.kwarg)))
                names = frozenset(argument.arg for argument in every) - {"self"}
                attributes = {name: next(_literals(model, name), plain) for name, plain in _PLAIN.items()}
                return ModelSource(
                    inputs=names,
                    main_input=str(attributes["main_input_name"]),
                    prefix=str(attributes["base_model_prefix"]),
                    generates=_GENERATES in _base_names(model),
                )
    return None


def _literals(model: _Class, name: str) -> Iterator[Any]:
    """Yield the values of a class attribute, first of the class, then of its bases."""
    for each in _bases_and_self(model):
        for node in each.node.body:
            target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(target, ast.Name) and target.id == name:
                value = _literal(node.value)
                if value is not None:
                    yield value


def _literal(node: ast.expr | None) -> Any:
    try:
        return ast.literal_eval(node) if node is not None else None
    except ValueError:
        return None


def _base_names(model: _Class) -> set[str]:
    return {base.id for each in _bases_and_self(model) for base in each.node.bases if isinstance(base, ast.Name)}


def _bases_and_self(model: _Class) -> Iterator[_Class]:
    """Yield a class and its bases in transformers' model files, in method resolution order."""
    yield model
    for base in model.node.bases:
        if isinstance(base, ast.Name) and (found := _named(base.id, model.file)) is not None:
            yield from _bases_and_self(found)


def _named(name: str, file: Path) -> _Class | None:
    """Return the class that a name means in a file; None for the classes that all models derive from."""
    if name in ("PreTrainedModel", "PretrainedConfig", "PreTrainedConfig", _GENERATES):
        return None
    classes, imports = _names(file)
    if name in classes:
        return _Class(classes[name], file)
    if name in imports:
        own, node = imports[name]
        target = import_target(node, file)
        return _named(own, target) if target is not None else None
    return None


@functools.lru_cache(maxsize=32)
def _names(file: Path) -> tuple[dict[str, ast.ClassDef], dict[str, tuple[str, ast.ImportFrom]]]:
    body = parsed(file).body
    classes = {node.name: node for node in body if isinstance(node, ast.ClassDef)}
    imports = {
        alias.asname or alias.name: (alias.name, node)
        for node in body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    return classes, imports


def _defined(model_type: str, name: str, kind: str) -> _Class | None:
    """Return the class of a name in the files of a model type: `modeling` or `configuration`."""
    for file in _files(model_type, kind) if name else ():
        if f"class {name}(" in file.read_text("utf-8"):
            return _named(name, file)
    return None


def _files(model_type: str, kind: str) -> list[Path]:
    package = module_file("transformers")
    module = module_of(model_type)
    return [
        file
        for folder in (module, f"deprecated/{module}")
        for file in sorted((package.parent / "models" / folder).glob(f"{kind}_*.py") if package is not None else ())
        if not file.name.startswith((f"{kind}_tf_", f"{kind}_flax_"))
    ]
