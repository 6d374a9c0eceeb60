"""The ONNX files that a name means: the one that stands for a folder, and those that make up a model with it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_htp.errors import OnnxFileNotFoundError, SeveralModelsError
from optimum_htp.loading.recognize import may_be_ours, names_a_file
from optimum_htp.metadata import ExportMetadata, record_if_any
from optimum_htp.onnxfile import external_files
from optimum_htp.onnxfile.publication import Watch, read_whole
from optimum_htp.origin.model_files import ModelFiles, parts_of
from optimum_htp.origin.names import CONFIG, ONNX_FILE
from optimum_htp.origin.ort_classes import is_a

if TYPE_CHECKING:
    from optimum.onnxruntime import ORTModel

__all__ = ["file_in_folder", "files_of_names", "model_files", "stamped_file"]


def stamped_file(model_id: Any, options: Mapping[str, Any]) -> Path | None:
    """Return the ONNX file that a call of `from_pretrained` means where it is ours to load, else None.

    Ours are paths that end in `.onnx`, and folders of stamped files without the configs that Optimum needs.

    Args:
        model_id: What was given to `from_pretrained`.
        options: Its keyword arguments.
    """
    if names_a_file(model_id):
        return Path(os.fspath(model_id)).expanduser()
    if options.get("export") or not may_be_ours(model_id, options.get("subfolder")):
        return None
    name = options.get("file_name") or options.get("encoder_file_name")
    folder = Path(model_id, options.get("subfolder") or "")

    def search(watch: Watch) -> Path | None:
        for file in folder.glob("*.onnx"):
            watch.see(file)
        return file_in_folder(folder, name)

    return read_whole(folder, search)


def file_in_folder(folder: Path, name: str | None = None) -> Path | None:
    """Return the stamped ONNX file that stands for a folder without configs, None where none does.

    It is the one that was asked for, `model.onnx`, or any if all belong to one model.

    Raises:
        SeveralModelsError: The folder holds files of several models.
    """
    if not folder.is_dir() or (folder / CONFIG).is_file():
        return None
    if name is not None:
        named = folder / name
        return named if named.is_file() and record_if_any(named) is not None else None
    records = {path: record for path in sorted(folder.glob("*.onnx")) if (record := record_if_any(path)) is not None}
    if not records:
        return None
    first, *others = records
    standard = folder / ONNX_FILE
    if standard in records:
        return standard
    if any(not records[other].belongs_with(records[first]) or not records[first].onnx_files for other in others):
        raise SeveralModelsError(
            f"{folder} holds {len(records)} models ({', '.join(path.name for path in records)}): name one of these "
            "files, or give file_name=."
        )
    return first


def model_files(cls: type[ORTModel], path: Path, metadata: ExportMetadata | None, watch: Watch) -> ModelFiles:
    """Return the files that the class opens, under the names that it looks for."""
    if not is_a(cls, "ORTModelForConditionalGeneration"):
        return ModelFiles(path.parent, {ONNX_FILE: _openable(path)})
    if metadata is None:
        return ModelFiles(path.parent, {file.name: file for file in sorted(path.parent.glob("*.onnx"))})
    if not metadata.onnx_files:
        raise OnnxFileNotFoundError(
            f"{path} is a whole model in one file, and {cls.__name__} needs an encoder and a decoder. It was "
            f"exported for the task {metadata.task}: export it for another one, without --monolith."
        )
    parts = parts_of(path, metadata, watch)
    return ModelFiles(parts.folder, {name: _openable(file) for name, file in parts.by_name.items()})


def files_of_names(path: Path, given: Mapping[str, str], watch: Watch) -> ModelFiles:
    """Return the files that the user named one by one; Optimum finds them by these names."""
    for name in given.values():
        watch.see(path.parent / name)
        if not (path.parent / name).is_file():
            raise OnnxFileNotFoundError(f"There is no ONNX file at {path.parent / name}. Check the name.")
    return ModelFiles(path.parent, {name: _openable(path.parent / name) for name in given.values()})


def _openable(path: Path) -> Path:
    """Return the path under which ONNX Runtime finds a file's external data, where the file is a link."""
    if path.is_symlink() and not all((path.parent / name).exists() for name in external_files(path)):
        return path.resolve()
    return path
