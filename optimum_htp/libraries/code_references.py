"""Python code in a model's configs and graphs that a library would run without asking the user.

Libraries import some values of a config. transformers requires `trust_remote_code=True` before it uses an `auto_map`.
Other libraries do not ask if the config is in a local folder, and embedded or downloaded files are passed to them as
a local folder. Only references that are known to be harmless are accepted. Optimum runs names of axes.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from optimum_htp.errors import InvalidOnnxFileError, UntrustedCodeError
from optimum_htp.libraries.names import EXPORT_MANIFEST, MODEL_INDEX, SENTENCE_MODULES
from optimum_htp.libraries.repo_files import ADAPTER_CONFIG
from optimum_htp.parsing import items_of, parse_json

__all__ = [
    "CodeReference",
    "code_references",
    "may_refer_to_code",
    "names_own_code",
    "references_in",
    "refuse_code",
    "refuse_code_in_axes",
    "refuse_code_in",
]

_CLASS: Final = r"[A-Z][A-Za-z0-9_]*"
# Before version 5.4, the packages of sentence_transformers with its modules were named `models`.
_MODULE: Final = re.compile(rf"sentence_transformers(\.[a-z_]+)*\.(models|modules)(\.\w+)*\.{_CLASS}", re.ASCII)
_ACTIVATION: Final = re.compile(
    rf"torch\.nn(\.modules(\.[a-z_]+)?)?\.{_CLASS}|transformers\.activations\.{_CLASS}", re.ASCII
)
_NAME_OF_CLASS: Final = re.compile(_CLASS, re.ASCII)
_ACTIVATIONS: Final = frozenset({"activation_function", "activation_fn", "sbert_ce_default_activation_function"})
_WORD_EMBEDDINGS: Final = "wordembedding_config.json"
_IMPLEMENTATION: Final = re.compile(r"\w*_implementation(_internal)?", re.ASCII)
_KERNELS: Final = "kernels-community/"  # transformers itself loads kernels from there.
_MEGATRON: Final = "megatron.core"
# Allowed values in a `model_index.json`; for some components also the folder of a pipeline in diffusers.
_LIBRARY: Final = re.compile(r"diffusers|transformers|optimum\.onnxruntime(\.\w+)*", re.ASCII)
_PIPELINES: Final = frozenset(
    {"deepfloyd_if", "latent_diffusion", "paint_by_example", "stable_diffusion", "unidiffuser"}
)
_IMPORTED_BY_OPTIMUM: Final = ("feature_extractor", "scheduler", "tokenizer")  # Always by the library's name.

# `torch.utils._pytree` imports the module in these keys of the input and output trees in an `export.json`.
_IMPORTED_BY_TREES: Final = frozenset({"__enum__", "default_factory_module"})

_ARITHMETIC: Final = (
    ast.Expression,
    ast.BinOp,
    ast.UnaryOp,
    ast.operator,
    ast.unaryop,
    ast.Call,
    ast.Name,
    ast.Load,
    ast.Constant,
)
# Exporters write these functions of symbolic shapes.
_FUNCTIONS: Final = frozenset({"abs", "ceil", "ceildiv", "ceiling", "floor", "floordiv", "max", "min", "mod", "trunc"})

_TRUST_IT: Final = "Read that code; pass trust_remote_code=True (--trust-remote-code) to run it."


@dataclass(frozen=True)
class CodeReference:
    """A value of a config that a library would import, with its key path in the config, separated by dots."""

    file: str
    field: str
    value: str

    def __str__(self) -> str:
        return f"{self.file} has {self.field}={self.value!r}"


def may_refer_to_code(name: str) -> bool:
    """Whether a file is a config, by its name. Vocabularies and tokenizers contain no references to code."""
    base = PurePosixPath(name).name
    return base.endswith(".json") and ("config" in base or base in (SENTENCE_MODULES, MODEL_INDEX, EXPORT_MANIFEST))


def names_own_code(content: Any) -> bool:
    """Whether a config refers to code that transformers runs only with `trust_remote_code=True`."""
    return isinstance(content, Mapping) and bool(content.get("auto_map") or content.get("custom_pipelines"))


def references_in(files: Mapping[str, bytes]) -> tuple[CodeReference, ...]:
    """Return the references to code in files, by name, that no library may follow without `trust_remote_code=True`."""
    found: list[CodeReference] = []
    for name, text in files.items():
        if not may_refer_to_code(name):
            continue
        try:
            content = parse_json(text)
        except ValueError as error:
            if _is_json(error):
                found.append(CodeReference(name, "its content", f"JSON that cannot be checked: {error}"))
        else:
            found += code_references(name, content)
    return tuple(found)


def _is_json(error: ValueError) -> bool:
    """Whether content that `parse_json` rejected is JSON that exceeds its limits. A library may read such JSON."""
    return not isinstance(error.__cause__, (json.JSONDecodeError, UnicodeDecodeError))


def refuse_code(files: Mapping[str, bytes], holder: object, advice: str) -> None:
    """Reject files, by name relative to the model, that refer to code.

    The message names `holder`, the file or repo that contains them, and ends with `advice`.

    Raises:
        UntrustedCodeError: A file refers to code.
    """
    if found := references_in(files):
        raise UntrustedCodeError(f"{holder} contains {found[0]}, which would import untrusted code. {advice}")


def refuse_code_in(folder: Path, names: Iterable[str], holder: object) -> None:
    """Reject downloaded files that refer to code; missing files are skipped. See `refuse_code`."""
    there = [name for name in names if may_refer_to_code(name) and (folder / name).is_file()]
    refuse_code({name: (folder / name).read_bytes() for name in there}, holder, _TRUST_IT)


def code_references(name: str, content: Any) -> Iterator[CodeReference]:
    """Yield the references to code in a parsed config that are not known to be harmless."""
    base = PurePosixPath(name).name
    if base == SENTENCE_MODULES:
        yield from _of_modules(name, content)
    elif base == MODEL_INDEX and isinstance(content, Mapping):
        yield from _of_pipeline(name, content)
    elif base == EXPORT_MANIFEST:
        yield from _of_trees(name, content)
    for path, key, value in items_of(content):
        if _is_refused(base, path, key, value):
            yield CodeReference(name, ".".join((*path, key)), str(value))


def _is_refused(base: str, path: tuple[str, ...], key: str, value: Any) -> bool:
    if key == "trust_remote_code":
        return base.startswith("sentence_") and bool(value)  # These are passed on as arguments.
    if not isinstance(value, str):
        return False
    if key in _ACTIVATIONS:
        return "." in value and not _ACTIVATION.fullmatch(value)
    if path and path[-1] == "types":  # Of a Router.
        return "." in value and not _MODULE.fullmatch(value)
    if key == "tokenizer_class" and base == _WORD_EMBEDDINGS:
        return not _MODULE.fullmatch(value)
    if key == "megatron_core" and base == ADAPTER_CONFIG:
        return value != _MEGATRON
    if any(_IMPLEMENTATION.fullmatch(part) for part in (key, *path[-1:])):
        return "/" in value and not value.startswith(_KERNELS)
    return False


def _of_modules(name: str, content: Any) -> Iterator[CodeReference]:
    """Check the list of modules of a sentence_transformers model."""
    if not isinstance(content, list):
        yield CodeReference(name, "its content", f"a {type(content).__name__} instead of a list of modules")
        return
    for index, module in enumerate(content):
        kind = module.get("type") if isinstance(module, Mapping) else module
        if not isinstance(kind, str) or not _MODULE.fullmatch(kind):
            yield CodeReference(name, f"{index}.type", str(kind))


def _of_trees(name: str, content: Any) -> Iterator[CodeReference]:
    """Check the trees in an `export.json`: strings with JSON, which contain strings with JSON."""
    for path, key, value in items_of(content):
        if key in _IMPORTED_BY_TREES:
            yield CodeReference(name, ".".join((*path, key)), str(value))
        if not isinstance(value, str):
            continue
        try:
            yield from _of_trees(name, [parse_json(value)])
        except ValueError as error:
            if _is_json(error):
                yield CodeReference(name, ".".join((*path, key)), f"JSON that cannot be checked: {error}")


def _of_pipeline(name: str, content: Mapping[str, Any]) -> Iterator[CodeReference]:
    """Check the components of a diffusion pipeline: pairs of a library and a class."""
    if not isinstance(content.get("_class_name", ""), str):
        yield CodeReference(name, "_class_name", str(content["_class_name"]))
    for key, value in content.items():
        if key.startswith("_") or value is None or value == [None, None]:
            continue
        strict = key.startswith(_IMPORTED_BY_OPTIMUM)
        if not strict and not (isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)):
            continue  # A setting.
        if not _is_component(value, strict=strict):
            yield CodeReference(name, key, str(value))


def _is_component(value: Any, *, strict: bool) -> bool:
    """Whether a value is a pair of a library and a class that is allowed in every pipeline."""
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(part, str) for part in value):
        return False
    library, cls = value
    known = _LIBRARY.fullmatch(library) or (not strict and library in _PIPELINES | _installed_pipelines())
    return bool(known and _NAME_OF_CLASS.fullmatch(cls))


@functools.cache
def _installed_pipelines() -> frozenset[str]:
    """Return the folders of pipelines in the installed diffusers, without importing it."""
    spec = importlib.util.find_spec("diffusers")
    folders = [Path(place, "pipelines") for place in (spec.submodule_search_locations or ())] if spec else []
    return frozenset(path.name for folder in folders if folder.is_dir() for path in folder.glob("[a-z]*/"))


def refuse_code_in_axes(shapes: Mapping[str, Sequence[object] | None], path: Path | str) -> None:
    """Reject a graph if an axis of an output has a name that would run code.

    Optimum evaluates the names of output axes as Python when it binds inputs and outputs (CUDA).

    Raises:
        InvalidOnnxFileError: An axis has such a name.
    """
    for output, shape in shapes.items():
        for name in shape or ():
            if isinstance(name, str) and not _is_harmless(name):
                raise InvalidOnnxFileError(
                    f"{path} is rejected: an axis of its output {output} is named {name!r}, which Optimum would run "
                    "as Python. Use another file."
                )


def _is_harmless(name: str) -> bool:
    """Whether the evaluation of a name calls arithmetic only, even if some of its words are replaced by numbers."""
    if "**" in name or "<<" in name:  # A short name can be a number of any size.
        return False
    if "(" not in name:  # Nothing can be called.
        return True
    try:
        nodes = list(ast.walk(ast.parse(name, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(
        isinstance(node, _ARITHMETIC)
        and not (isinstance(node, ast.Constant) and not isinstance(node.value, (int, float)))
        and not (isinstance(node, ast.Call) and not _is_known(node))
        for node in nodes
    )


def _is_known(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id.lower() in _FUNCTIONS and not call.keywords
