"""Pushes stamped ONNX files to the Hugging Face Hub, with configs and a model card, in one commit.

transformers.js reads configs from the root of a repo and models from `onnx/`: `model.onnx`, or for another type of
weights `model_quantized.onnx`, `model_fp16.onnx`, `model_q4.onnx`.
Source: https://huggingface.co/docs/transformers.js/guides/dtypes
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Final

from optimum_htp.errors import ArgumentError, ModelBeingReplacedError, PushError
from optimum_htp.extras.contents import (
    OnnxFile,
    configs_beside,
    configs_of,
    onnx_files,
    refuse_code_among,
    refuse_link_out,
)
from optimum_htp.extras.endpoint.environment import ARCHIVE
from optimum_htp.extras.endpoint.folder import HANDLER, REQUIREMENTS, is_own
from optimum_htp.extras.push import LAYOUTS, OPTIMUM, TRANSFORMERS_JS
from optimum_htp.extras.push.card import Pushed, completed_card
from optimum_htp.extras.push.writing import CARD, PushResult, commit_files, look_at
from optimum_htp.hierarchy.tags import warn_of_traces
from optimum_htp.hubs.base import HubAccess
from optimum_htp.masking import get_logger
from optimum_htp.onnxfile import external_files, read_graph, rename_model
from optimum_htp.onnxfile.copying import link_or_copy
from optimum_htp.onnxfile.operators import PACKED, is_quantization, number_of_bits
from optimum_htp.onnxfile.replace_files import Watch

__all__ = ["push"]

logger = get_logger(__name__)

_ENDPOINT: Final = (HANDLER, REQUIREMENTS, ARCHIVE)
_WEB_FOLDER: Final = "onnx"
_WEB_SUFFIXES: Final = ("_quantized", "_int8", "_uint8", "_fp16", "_q4f16", "_q4", "_bnb4")


def push(
    paths: Sequence[str | os.PathLike[str]],
    repo_id: str,
    *,
    private: bool | None = None,
    create_pr: bool = False,
    layout: str = OPTIMUM,
    message: str | None = None,
    access: HubAccess | None = None,
) -> PushResult:
    """Push ONNX files to a repo of the Hugging Face Hub, in one commit.

    Args:
        paths: Stamped ONNX files, and folders of them. Configs, README.md and the files of `htp endpoint` in a folder
            are pushed, too, but no other files.
        repo_id: The repo (`org/name`); it is created if it does not exist.
        private: Whether a new repo is private. None if it is private for a private or gated model only.
        create_pr: Whether to open a pull request instead.
        layout: One of `LAYOUTS`.
        message: Message of the commit.
        access: Token, and cache of the configs.

    Raises:
        ArgumentError: The layout is unknown, two files have the same name, or a config is a link out of its folder.
        OnnxFileNotFoundError, InvalidOnnxFileError, MetadataError: A file is missing, damaged, or has no valid record.
        UntrustedCodeError: A config makes a library import code.
        AccessDeniedError: The token has no write access. Nothing was written, as with all errors.
        PushError: The Hub rejects the files, or the repo has changed.
        HFHubIntegrationError: The Hub cannot be reached; the subclass is the reason.
    """
    if layout not in LAYOUTS:
        raise ArgumentError(f"layout={layout!r} is unknown. Pass {' or '.join(LAYOUTS)}.")
    access = access or HubAccess()
    watch = Watch()
    models = onnx_files(paths, watch)
    with TemporaryDirectory(prefix="optimum-htp-") as workspace:
        placed = [(model, _placed(model, layout, Path(workspace, str(index)))) for index, model in enumerate(models)]
        files = _together(placed)
        files = {**_configs(paths, models, layout, access), **files}
        target = look_at(repo_id, access.token)
        pushed = [
            Pushed(model, next(iter(parts)), sum(path.stat().st_size for path in parts.values()))
            for model, parts in placed
        ]
        card = _own_card(paths, models) or target.card
        card = completed_card(target.repo_id, pushed, card, layout=layout, there=target.files)
        if not watch.undisturbed:
            raise ModelBeingReplacedError(f"Files in {paths[0]} changed while they were read. Push again.")
        for model in models:
            warn_of_traces(model.path, read_graph(model.path))
        if private is None and any(model.record.private or model.record.gated for model in models):
            private = True
        return commit_files(
            target,
            {CARD: card.encode(), **files},
            message=message or f"Add {_named(models)}",
            private=private,
            create_pr=create_pr,
            token=access.token,
        )


def _placed(model: OnnxFile, layout: str, workspace: Path) -> dict[str, Path]:
    """Return a file and its external data by their names in the repo; the file is first."""
    if layout == TRANSFORMERS_JS:
        workspace.mkdir()
        return _web_file(model, workspace)
    folder = PurePosixPath(model.name).parent
    data = {(folder / location).as_posix(): model.path.parent / location for location in model.data}
    if data and model.path.name != PurePosixPath(model.name).name:
        raise PushError(f"{model.path} was renamed without its external data. Rename it to {model.name}.")
    return {model.name: model.path, **data}


def _web_file(file: OnnxFile, workspace: Path) -> dict[str, Path]:
    """Return an ONNX file and its external data, by their names for transformers.js.

    If the data must be renamed, a changed copy is written to the workspace, an empty folder.
    """
    if file.record.export_library == "diffusers" or file.record.submodule is not None:
        raise PushError(f"transformers.js cannot load {file.path}. Omit --layout {TRANSFORMERS_JS}.")
    name = PurePosixPath(file.name).name if file.record.onnx_files else f"model{_weights(file)}.onnx"
    source = file.path
    data = file.data
    if data and name != source.name:
        source = workspace / file.path.name
        source.write_bytes(file.path.read_bytes())  # a file is small without its data
        for location in data:
            (workspace / location).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy((file.path.parent / location).resolve(), workspace / location)
        rename_model(source, workspace / name)
        source = workspace / name
        data = external_files(source)
    folder = PurePosixPath(_WEB_FOLDER)
    found = {(folder / location).as_posix(): source.parent / location for location in data}
    return {(folder / name).as_posix(): source, **found}


def _weights(file: OnnxFile) -> str:
    """Return the suffix of transformers.js for the type of the weights, from the file name or the graph."""
    stem = PurePosixPath(file.name).stem
    named = next((suffix for suffix in _WEB_SUFFIXES if stem.endswith(suffix)), None)
    if named is not None:
        return named
    graph = read_graph(file.path)
    operators = {node.op_type for node in graph.nodes}
    if "MatMulBnb4" in operators:
        return "_bnb4"
    if any(node.op_type in PACKED and number_of_bits(node.op_type, node.integers) == 4 for node in graph.nodes):
        return "_q4"
    if any(is_quantization(operator) for operator in operators):
        return "_quantized"
    kinds = Counter(tensor.dtype for tensor in graph.initializers)
    return "_fp16" if kinds["float16"] > kinds["float32"] else ""


def _together(placed: Sequence[tuple[OnnxFile, dict[str, Path]]]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for model, files in placed:
        for name, path in files.items():
            if found.setdefault(name, path) != path:
                raise ArgumentError(
                    f"{found[name]} and {model.path} would both be {name} in the repo. Push one of them, or rename it."
                )
    return found


def _configs(
    paths: Sequence[str | os.PathLike[str]], models: Sequence[OnnxFile], layout: str, access: HubAccess
) -> dict[str, Path]:
    """Return the configs and endpoint files of ONNX files, by name in the repo."""
    folders = [Path(path) for path in paths if Path(path).is_dir()]
    found: dict[str, Path] = {}
    for folder in folders:
        found.update(configs_beside(folder, models))
        found.update(_endpoint_in(folder))
    if layout == TRANSFORMERS_JS:
        for model in models:
            found = {**configs_of(model, access), **found}
    refuse_code_among(found, paths[0], "a repo of ONNX files")
    return found


def _endpoint_in(folder: Path) -> dict[str, Path]:
    """Return the endpoint files in a folder, if this package wrote all of them and they are unchanged."""
    files = {name: folder / name for name in _ENDPOINT if (folder / name).is_file()}
    if not files:
        return {}
    others = [path for name, path in files.items() if not is_own(name, path.read_bytes())]
    if others:
        logger.warning(
            "Not pushed: %s. `optimum-cli htp endpoint` writes other content. Run it again, or upload the file.",
            ", ".join(map(str, others)),
        )
    needed = {HANDLER, REQUIREMENTS}
    if HANDLER in files and ARCHIVE.encode() in files[HANDLER].read_bytes():
        needed.add(ARCHIVE)
    return {name: files[name] for name in needed} if needed <= files.keys() and not others else {}


def _own_card(paths: Sequence[str | os.PathLike[str]], models: Sequence[OnnxFile]) -> str | None:
    """Return the model card in the pushed folder."""
    card = Path(paths[0], CARD)
    if len(paths) != 1 or not card.is_file():
        return None
    refuse_link_out(card, card.parent, models)
    return card.read_text(encoding="utf-8")


def _named(models: Sequence[OnnxFile]) -> str:
    first = models[0].record
    others = f" and {len(models) - 1} more" if len(models) > 1 else ""
    return f"{models[0].name}{others}, ONNX of {first.source}"
