"""Writes the folder of a Hugging Face Inference Endpoint: the model, configs, `handler.py` and `requirements.txt`.

The handler needs neither an installation of this package nor a Hub: the embedded files are extracted into the folder.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from pprint import pformat
from typing import Any, Final

from optimum_htp import plugins
from optimum_htp.errors import EndpointError, ModelBeingReplacedError
from optimum_htp.extras.contents import OnnxFile, configs_of, onnx_files, refuse_code_among
from optimum_htp.extras.endpoint import environment, handler, light_handler
from optimum_htp.hubs.base import HubAccess
from optimum_htp.libraries.code_references import refuse_code_in_axes
from optimum_htp.libraries.names import (
    CONFIG,
    ONNX_FILE,
    ONNX_FOLDERS,
    SENTENCE_MODULES,
    SENTENCEPIECE,
    TOKENIZER,
    WEIGHTS,
)
from optimum_htp.libraries.ort_classes import class_for
from optimum_htp.libraries.tasks import WITH_PAST
from optimum_htp.onnxfile import read_signature
from optimum_htp.onnxfile.replace_files import Watch
from optimum_htp.onnxfile.staging import publish, staging_folder
from optimum_htp.parsing import json_or_none
from optimum_htp.resolve.model_files import model_root

__all__ = ["HANDLER", "REQUIREMENTS", "Endpoint", "is_own", "write_endpoint"]

HANDLER: Final = "handler.py"
REQUIREMENTS: Final = "requirements.txt"
_SENTENCES: Final = "sentence-similarity"
_EMBEDDINGS: Final = "feature-extraction"
_SETTINGS: Final = "SETTINGS: dict[str, Any] = {}"
# Patterns of the handler's settings. A handler with other settings was edited by a user.
_PATTERNS: Final = {
    "task": r"[a-z0-9]+(-[a-z0-9]+)*",
    "input": "text|image|audio",
    "model_class": r"ORT[A-Z]\w*",
    "file_name": r"[^\n]*\.onnx",
    "preprocessors": r"Auto[A-Z]\w*",
}
_LIGHT_PATTERNS: Final = {name: _PATTERNS[name] for name in ("task", "file_name")}
_WEIGHTLESS: Final = ("Transformer", "Pooling", "Normalize")
_PIPELINES: Final = {"semantic-segmentation": "image-segmentation"}  # Optimum's task names with another pipeline name
_SPECIAL: Final = {
    "summarization": "text2text-generation",
    "translation": "text2text-generation",
    "zero-shot-classification": "text-classification",
    "document-question-answering": "image-to-text",
}
"""Pipelines that run a model of a more general task, if the pipeline tag of its card names them."""
_SPEECH: Final = frozenset({"audio-classification", "automatic-speech-recognition"})
_BASE: Final = ("optimum-onnx[onnxruntime]", "transformers", "torch")


@dataclass(frozen=True)
class Endpoint:
    """The result of `write_endpoint`: the task of its pipeline, and why it needs PyTorch; None if it does not."""

    folder: Path
    task: str
    files: tuple[str, ...]
    reason: str | None = None


def write_endpoint(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    access: HubAccess | None = None,
    *,
    is_light: bool | None = None,
) -> Endpoint:
    """Write the folder of an Inference Endpoint.

    Args:
        path: An ONNX file with a record, or a folder with the files of one model.
        output: The output folder; None for the model's folder.
        access: For files that are neither adjacent nor embedded.
        is_light: Whether the endpoint runs without PyTorch and transformers; None to do so if possible.

    Raises:
        EndpointError: No pipeline supports the model (or none without PyTorch, if `is_light`), the folder contains
            several models, or a file in the output folder was not written by this package.
        UntrustedCodeError: A config would make a library import code.
        MissingDependencyError: A requirement of the handler is not installed here.
        HFHubIntegrationError: A file of the model cannot be downloaded; the subclass gives the reason.
    """
    access, given = access or HubAccess(), Path(path)
    watch = Watch()
    files = onnx_files([given], watch)
    first = _only_model(files, given)
    home = model_root(first.path, first.record)
    if given.is_dir() and not home.samefile(given):
        if home.name not in ONNX_FOLDERS or not home.parent.samefile(given):  # Optimum does not search there
            return write_endpoint(home, output, access, is_light=is_light)
        home = given
    configs = dict(configs_of(first, access))
    refuse_code_among(configs, first.path, "an endpoint")
    for file in files:
        refuse_code_in_axes({spec.name: spec.shape for spec in read_signature(file.path)[1]}, file.path)
    settings = _settings(first, files, configs)
    if settings["task"] == _SENTENCES:
        configs.update(_weights_of_modules(first, configs, access))
    written: dict[str, Path | bytes] = {**configs}
    reason = "--full" if is_light is False else environment.reason_against(settings["task"], first.name, configs)
    if is_light and reason is not None:
        raise EndpointError(f"{first.path} cannot be served without PyTorch: {reason}. Use --full.")
    if reason is None:
        written[environment.ARCHIVE] = environment.archive()
        written[HANDLER] = _handler({"task": settings["task"], "file_name": first.name})
        needed = environment.distributions(settings["task"], configs)
    else:
        written[HANDLER] = _handler(settings)
        needed = [
            *_BASE,
            *(["pillow"] if settings["input"] == "image" else []),
            *(["sentence-transformers"] if settings["task"] == _SENTENCES else []),
            *(["sentencepiece"] if _needs_sentencepiece(configs) else []),
        ]
    written[REQUIREMENTS] = environment.pinned(needed).encode()
    folder = Path(output) if output is not None else home
    if not (folder.is_dir() and folder.samefile(home)):
        for file in files:
            parent = PurePosixPath(file.name).parent
            written[file.name] = file.path
            written.update({(parent / name).as_posix(): file.path.parent / name for name in file.data})
    _check_replaceable(folder, written)
    with staging_folder(folder) as staging:
        staged = staging / "output"
        for name, content in written.items():
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                (staged / name).write_bytes(content)
            else:
                shutil.copyfile(content, staged / name)
        if not watch.undisturbed:
            raise ModelBeingReplacedError(f"Files in {home} were replaced during the read. Run the command again.")
        publish(staged, folder)
    return Endpoint(folder, settings["task"], tuple(sorted(written)), reason)


def _needs_sentencepiece(names: Iterable[str]) -> bool:
    """Whether the only tokenizer file is a sentencepiece model."""
    files = {PurePosixPath(name).name for name in names}
    return TOKENIZER not in files and any(name.endswith(SENTENCEPIECE) for name in files)


def is_own(name: str, content: bytes) -> bool:
    """Whether a file of an endpoint (handler, requirements or archive) is exactly as written by this package."""
    if name == environment.ARCHIVE:
        return environment.is_archive(content)
    try:
        text = content.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError:
        return False
    if name == REQUIREMENTS:
        return environment.are_pinned(text)
    return any(_is_handler(text, patterns) for patterns in (_PATTERNS, _LIGHT_PATTERNS))


def _is_handler(text: str, patterns: Mapping[str, str]) -> bool:
    head, _, rest = _template(patterns)
    literal = text[len(head) + len(_SETTINGS.removesuffix("{}")) : -len(rest)]
    try:
        settings = ast.literal_eval(literal)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return False
    if not isinstance(settings, dict) or settings.keys() != patterns.keys():
        return False
    is_valid = all(
        (value is None and key == "file_name") or (isinstance(value, str) and re.fullmatch(patterns[key], value))
        for key, given in settings.items()
        for value in (given if key == "preprocessors" and isinstance(given, list) else [given])
    )
    return bool(is_valid) and _handler(settings).decode() == text


def _only_model(files: tuple[OnnxFile, ...], given: Path) -> OnnxFile:
    """Return the first file of the only model."""
    first = files[0]
    if any(not first.record.onnx_files or not other.record.belongs_with(first.record) for other in files[1:]):
        standard = [file for file in files if file.name == ONNX_FILE]
        names = ", ".join(file.name for file in files)
        raise EndpointError(
            f"{given} contains several models ({names}). Pass the file of one"
            f"{f', such as {given / ONNX_FILE}' if standard else ''}, and an output folder with -o."
        )
    return first


def _settings(first: OnnxFile, files: tuple[OnnxFile, ...], configs: Mapping[str, Path]) -> dict[str, Any]:
    """Return the settings of the handler."""
    from transformers.pipelines import PIPELINE_REGISTRY

    record = first.record
    task = (record.task or "").removesuffix(WITH_PAST)
    task = _PIPELINES.get(task, task)
    if record.pipeline_tag is not None and _SPECIAL.get(record.pipeline_tag) == task:
        task = record.pipeline_tag
    served = PIPELINE_REGISTRY.supported_tasks
    if record.submodule is not None or task not in served:
        raise EndpointError(
            f"{first.path} was exported for {record.task or 'an unknown task'}, which no pipeline supports. Pipelines "
            f"support {', '.join(sorted(served))}."
        )
    model_class = class_for(first.path, record).__name__
    if not served[task]["pt"] or model_class == "ORTModelForCustomTasks":
        inputs = ", ".join(spec.name for spec in read_signature(first.path)[0])
        raise EndpointError(
            f"Optimum has no class for {task} that provides the inputs of {first.path} in a pipeline: {inputs}."
        )
    name = PurePosixPath(first.name).name
    return {
        "task": _SENTENCES if task == _EMBEDDINGS and SENTENCE_MODULES in configs else task,
        "input": _input(task, served[task]["type"], record.preprocessors),
        "model_class": model_class,
        "file_name": name if len(files) == 1 and name != ONNX_FILE else None,
        "preprocessors": list(record.preprocessors),
    }


def _input(task: str, kind: str, preprocessors: Sequence[str]) -> str:
    """Return the kind of a pipeline's inputs: `text`, `image` (also with a text) or `audio`."""
    if task in _SPEECH:
        return "audio"
    has_images = any(name in ("AutoImageProcessor", "AutoProcessor") for name in preprocessors)
    return "image" if kind == "image" or (kind == "multimodal" and has_images) else "text"


def _handler(settings: Mapping[str, Any]) -> bytes:
    """Return the source of the handler: the module in this package, with settings."""
    head, _, rest = _template(settings)
    return f"{head}{_SETTINGS.removesuffix('{}')}{pformat(dict(settings), sort_dicts=False)}{rest}".encode()


def _template(settings: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the source of a handler with these settings: before its settings, their line, and after it."""
    module = light_handler if settings.keys() == _LIGHT_PATTERNS.keys() else handler
    parts = Path(str(module.__file__)).read_text(encoding="utf-8").partition(_SETTINGS)
    assert parts[1]
    return parts


def _weights_of_modules(file: OnnxFile, configs: Mapping[str, Path], access: HubAccess) -> dict[str, Path]:
    """Return the weights of the sentence_transformers modules after the transformer, such as dense layers."""
    modules = json_or_none(configs[SENTENCE_MODULES].read_bytes())
    if not isinstance(modules, list) or not all(map(_is_module, modules)):
        raise EndpointError(
            f"The {SENTENCE_MODULES} of {file.path} is not a list of modules with type and path. Embed the files "
            f"again: `optimum-cli htp embed {file.path}`."
        )
    names = [
        f"{module['path']}/{WEIGHTS}"
        for module in modules
        if str(module["type"]).rpartition(".")[2] not in _WEIGHTLESS and f"{module['path']}/{CONFIG}" in configs
    ]
    record = file.record
    if not names or record.hub_id is None or record.hub_sha is None:
        return {}
    folder = plugins.hub(record.hub_provider).snapshot(record.hub_id, record.hub_sha, names, access)
    return {name: folder / name for name in names if (folder / name).is_file()}


def _is_module(content: Any) -> bool:
    return isinstance(content, dict) and all(isinstance(content.get(key), str) for key in ("type", "path"))


def _check_replaceable(folder: Path, written: Mapping[str, Path | bytes]) -> None:
    """Check that existing files were written by this package or do not change; otherwise a file would be lost."""
    for name, content in written.items():
        existing = folder / name
        if not existing.is_file():
            continue
        if name in (HANDLER, REQUIREMENTS, environment.ARCHIVE):
            replaceable = is_own(name, existing.read_bytes())
        else:
            assert isinstance(content, Path)
            replaceable = existing.samefile(content) or existing.read_bytes() == content.read_bytes()
        if not replaceable:
            raise EndpointError(f"{existing} exists and differs. Delete it, or use another folder with -o.")
