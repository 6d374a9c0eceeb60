"""Finds the ONNX file to load in a folder, and the other files of its model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from optimum_htp.errors import OnnxFileNotFoundError, SeveralModelsError
from optimum_htp.libraries.names import CONFIG, ONNX_FILE, ONNX_FOLDERS, ONNX_PATTERN
from optimum_htp.libraries.ort_classes import is_a
from optimum_htp.loading.recognize import has_onnx, local_path, names_a_file
from optimum_htp.metadata import ExportMetadata, record_if_any
from optimum_htp.onnxfile import external_files
from optimum_htp.onnxfile.replace_files import Watch, read_whole
from optimum_htp.resolve.model_files import ModelFiles, parts_of, stamped_in

if TYPE_CHECKING:
    from optimum.onnxruntime import ORTModel

__all__ = ["file_in_folder", "files_of_names", "model_files", "stamped_file"]


def stamped_file(model_id: Any, options: Mapping[str, Any], *, opens: bool = True) -> Path | None:
    """Return the ONNX file that a call of `from_pretrained` names, or None if the library must handle the call.

    The call can name a path that ends in `.onnx`, or a folder of files with a record.

    Args:
        model_id: The argument of `from_pretrained`.
        options: Its keyword arguments.
        opens: Whether the call opens the ONNX file, and not only the model's other files.

    Raises:
        SeveralModelsError: The folder contains files of several models, and no option selects one.
        OnnxFileNotFoundError: The folder does not contain the requested file.
    """
    if names_a_file(model_id):
        return Path(local_path(model_id)).expanduser()
    if options.get("export") or not has_onnx(model_id, options.get("subfolder")):
        return None
    name = options.get("file_name") or options.get("encoder_file_name")
    root = Path(local_path(model_id), options.get("subfolder") or "")
    folders = [place for inside in ONNX_FOLDERS if any((place := root / inside).glob(ONNX_PATTERN))]
    folder = next((place for place in folders if name and (place / name).is_file()), (folders or [root])[0])
    if name and not (folder / name).is_file() and (root / name).is_file():
        folder, name = (root / name).parent, Path(name).name

    def search(watch: Watch) -> Path | None:
        for file in folder.glob(ONNX_PATTERN):
            watch.see(file)
        return file_in_folder(folder, name, opens=opens)

    return read_whole(folder, search)


def file_in_folder(folder: Path, name: str | None = None, *, opens: bool = True) -> Path | None:
    """Return the ONNX file with a record to load from a folder, or None.

    It is the requested file, or `model.onnx`, or the first file if all files belong to one model.

    Args:
        folder: The folder.
        name: The requested file.
        opens: Whether the call opens the file. Otherwise, different exports of one model are interchangeable.

    Raises:
        SeveralModelsError: The folder contains files of several models, and no config.
        OnnxFileNotFoundError: The folder contains files with a record, but not the requested file.
    """
    records = stamped_in(folder)
    if not records:
        return None
    wanted = folder / (name or ONNX_FILE)
    if wanted.is_file():
        return wanted if wanted in records or record_if_any(wanted) is not None else None
    if name is not None and opens:
        if any(folder.rglob(PurePosixPath(name).name)):  # Optimum searches subfolders too
            return None
        raise OnnxFileNotFoundError(
            f"There is no {name} in {folder}. It has {', '.join(path.name for path in records)}. Pass one of these as "
            "file_name= (for encoder and decoder: encoder_file_name=, decoder_file_name=)."
        )
    first, *others = records
    if all(_are_one_model(records[other], records[first], opens=opens) for other in others):
        return first
    if (folder / CONFIG).is_file():
        return None  # Optimum raises its own error, if it fails
    raise SeveralModelsError(
        f"{folder} contains {len(records)} models ({', '.join(path.name for path in records)}). Pass the path of one "
        "of these files, or file_name=."
    )


def _are_one_model(record: ExportMetadata, other: ExportMetadata, *, opens: bool) -> bool:
    """Whether two files are parts of one model, or, if no file is opened, whether they are exports of one model."""
    if record.belongs_with(other) and other.onnx_files:
        return True
    same = record.hub_id is not None and (record.hub_id, record.hub_sha) == (other.hub_id, other.hub_sha)
    return not opens and (same or (bool(record.embedded_files) and record.embedded_files == other.embedded_files))


def model_files(cls: type[ORTModel], path: Path, metadata: ExportMetadata | None, watch: Watch) -> ModelFiles:
    """Return the files that the class opens, by the names that it searches."""
    if not is_a(cls, "ORTModelForConditionalGeneration"):
        return ModelFiles(path.parent, {ONNX_FILE: _openable(path)})
    if metadata is None:
        return ModelFiles(path.parent, {file.name: file for file in sorted(path.parent.glob("*.onnx"))})
    if not metadata.onnx_files:
        raise OnnxFileNotFoundError(
            f"{path} contains a whole model, but {cls.__name__} requires an encoder and a decoder. It was exported "
            f"for the task {metadata.task}. Export the model for another task, without --monolith."
        )
    parts = parts_of(path, metadata, watch)
    return parts._replace(by_name={name: _openable(file) for name, file in parts.by_name.items()})


def files_of_names(path: Path, given: Mapping[str, str], watch: Watch) -> ModelFiles:
    """Return the files that the user named, by these names."""
    for name in given.values():
        watch.see(path.parent / name)
        if not (path.parent / name).is_file():
            existing = ", ".join(sorted(file.name for file in path.parent.glob(ONNX_PATTERN)))
            raise OnnxFileNotFoundError(f"There is no {name} in {path.parent}. It has {existing}. Pass one of these.")
    return ModelFiles(path.parent, {name: _openable(path.parent / name) for name in given.values()})


def _openable(path: Path) -> Path:
    """Return the path at which ONNX Runtime finds a file's external data, also if the file is a symlink."""
    if path.is_symlink() and not all((path.parent / name).exists() for name in external_files(path)):
        return path.resolve()
    return path
