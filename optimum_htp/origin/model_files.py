"""The ONNX files that make up a model: found by what they say of themselves, whatever they are called now."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from optimum_htp.errors import MissingSiblingError
from optimum_htp.metadata import ExportMetadata, record_if_any
from optimum_htp.onnxfile.publication import Watch

__all__ = ["ModelFiles", "parts_of"]


class ModelFiles(NamedTuple):
    """The ONNX files of a model: the path of each, by the name that it had at export."""

    folder: Path
    by_name: Mapping[str, Path]


def parts_of(path: Path, metadata: ExportMetadata, watch: Watch) -> ModelFiles:
    """Return the files of a multi-file model, by the names that they had at export.

    Raises:
        MissingSiblingError: One is not there.
    """
    folder, found = path.parent, {}
    if metadata.onnx_file is not None:
        folder = path.parents[metadata.onnx_file.count("/")]
        watch.see_folder(folder)
    for name in metadata.onnx_files:
        found[name] = path if name == metadata.onnx_file else _sibling(folder, name, path, metadata, watch)
    return ModelFiles(folder, found)


def _sibling(folder: Path, name: str, path: Path, metadata: ExportMetadata, watch: Watch) -> Path:
    """Return the file that had this name in the same export, renamed or not."""
    expected = folder / name
    for candidate in (expected, *sorted(expected.parent.glob("*.onnx"))):
        watch.see(candidate)
        other = record_if_any(candidate)
        if other is not None and other.belongs_with(metadata) and other.onnx_file in (None, name):
            return candidate
    stranger = " (the one there is of another export)" if expected.is_file() else ""
    raise MissingSiblingError(
        f"{expected} is missing{stranger}: {path.name} is part of a model of {len(metadata.onnx_files)} files "
        f"({', '.join(metadata.onnx_files)}), which have to stay together. Copy it there, or export again."
    )
