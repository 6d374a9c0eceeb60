"""The ONNX files that a name means: the one that stands for a folder, and those that make up a model with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from optimum_htp.errors import OnnxFileNotFoundError, SeveralModelsError
from optimum_htp.libraries.names import CONFIG, ONNX_FILE, ONNX_FOLDERS, ONNX_PATTERN
from optimum_htp.libraries.ort_classes import is_a
from optimum_htp.loading.recognize import local_path, may_be_ours, names_a_file
from optimum_htp.metadata import ExportMetadata, record_if_any
from optimum_htp.onnxfile import external_files
from optimum_htp.onnxfile.replace_files import Watch, read_whole
from optimum_htp.resolve.model_files import ModelFiles, parts_of, stamped_in

if TYPE_CHECKING:
    from optimum.onnxruntime import ORTModel

__all__ = ["file_in_folder", "files_of_names", "model_files", "stamped_file"]


def stamped_file(model_id: Any, options: Mapping[str, Any], *, opens: bool = True) -> Path | None:
    """Return the ONNX file that a call of `from_pretrained` means where it is ours to load, else None.

    Ours are paths that end in `.onnx`, and folders of stamped files.

    Args:
        model_id: What was given to `from_pretrained`.
        options: Its keyword arguments.
        opens: Whether the call opens the file, rather than what belongs to its model.

    Raises:
        SeveralModelsError: The folder holds files of several models, and nothing else says what is meant.
        OnnxFileNotFoundError: The folder has no file of the name that is asked for.
    """
    if names_a_file(model_id):
        return Path(local_path(model_id)).expanduser()
    if options.get("export") or not may_be_ours(model_id, options.get("subfolder")):
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
    """Return the stamped ONNX file that stands for a folder, None where none does.

    It is the one that was asked for, `model.onnx`, or any if all belong to one model.

    Args:
        folder: The folder.
        name: The file that was asked for.
        opens: Whether it is to be opened: files that were made of one model are as good as each other otherwise.

    Raises:
        SeveralModelsError: The folder holds files of several models, and no config that belongs to one of them.
        OnnxFileNotFoundError: There are stamped files, and none of that name.
    """
    records = stamped_in(folder)
    if not records:
        return None
    wanted = folder / (name or ONNX_FILE)
    if wanted.is_file():
        return wanted if wanted in records or record_if_any(wanted) is not None else None
    if name is not None and opens:
        if any(folder.rglob(PurePosixPath(name).name)):  # Optimum looks there too
            return None
        raise OnnxFileNotFoundError(
            f"There is no {name} in {folder}. It has {', '.join(path.name for path in records)}: give one of these as "
            "file_name= (of an encoder and a decoder: encoder_file_name=, decoder_file_name=)."
        )
    first, *others = records
    if all(_are_of_one(records[other], records[first], opens=opens) for other in others):
        return first
    if (folder / CONFIG).is_file():
        return None  # Optimum's own error says it, where it is one
    raise SeveralModelsError(
        f"{folder} holds {len(records)} models ({', '.join(path.name for path in records)}): name one of these "
        "files, or give file_name=."
    )


def _are_of_one(record: ExportMetadata, other: ExportMetadata, *, opens: bool) -> bool:
    """Whether two files are parts of one model; where none is opened, whether they were made of one."""
    if record.belongs_with(other) and other.onnx_files:
        return True
    same = record.hub_id is not None and (record.hub_id, record.hub_sha) == (other.hub_id, other.hub_sha)
    return not opens and (same or (bool(record.embedded_files) and record.embedded_files == other.embedded_files))


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
    return parts._replace(by_name={name: _openable(file) for name, file in parts.by_name.items()})


def files_of_names(path: Path, given: Mapping[str, str], watch: Watch) -> ModelFiles:
    """Return the files that the user named one by one; Optimum finds them by these names."""
    for name in given.values():
        watch.see(path.parent / name)
        if not (path.parent / name).is_file():
            there = ", ".join(sorted(file.name for file in path.parent.glob(ONNX_PATTERN)))
            raise OnnxFileNotFoundError(f"There is no {name} in {path.parent}. It has {there}: give one of these.")
    return ModelFiles(path.parent, {name: _openable(path.parent / name) for name in given.values()})


def _openable(path: Path) -> Path:
    """Return the path under which ONNX Runtime finds a file's external data, where the file is a link."""
    if path.is_symlink() and not all((path.parent / name).exists() for name in external_files(path)):
        return path.resolve()
    return path
