"""The ONNX files of a model, found by their records, independent of their present names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple, TypeVar

from optimum_htp.errors import MissingSiblingError
from optimum_htp.libraries.names import ONNX_FILE, ONNX_PATTERN
from optimum_htp.metadata import ExportMetadata, record_if_any
from optimum_htp.onnxfile.replace_files import Watch

__all__ = [
    "ModelFiles",
    "absolute",
    "folder_above",
    "holder_of",
    "model_root",
    "parts_of",
    "require_parts",
    "sibling",
    "stamped_in",
]

_IMAGE_ENCODER: Final = f"vae_encoder/{ONNX_FILE}"  # Only some pipeline classes open it.
_SHOWN: Final = 60  # Characters of a name in a message.

AnyPath = TypeVar("AnyPath", Path, PurePosixPath)


class ModelFiles(NamedTuple):
    """The existing ONNX files of a model: the path of each, by its name at export.

    `missing` is raised if a needed file does not exist.
    """

    folder: Path
    by_name: Mapping[str, Path]
    missing: MissingSiblingError | None = None


def holder_of(names: Sequence[str]) -> str | None:
    """Return the file of a model that contains the embedded files: one that every class opens."""
    encoders = (name for name in names if "encoder" in PurePosixPath(name).name)
    return next(encoders, names[0] if names else None)


def require_parts(parts: ModelFiles, record: ExportMetadata) -> None:
    """Reject a model that no class can open.

    With a merged decoder, the other decoders are not needed. A text-to-image pipeline needs no image encoder.
    """
    decoders = {name for name in record.onnx_files if "decoder" in PurePosixPath(name).name}
    merged = {name for name in decoders if "merged" in PurePosixPath(name).name}
    needed = {*record.onnx_files} - (decoders if merged & {*parts.by_name} else merged) - {_IMAGE_ENCODER}
    if parts.missing is not None and not needed <= {*parts.by_name}:
        raise parts.missing


def model_root(path: Path, record: ExportMetadata) -> Path:
    """Return the absolute path of the folder of a model, given one of its files.

    Below a linked folder there are two candidates: above the link, and above its target. The model's folder is the one
    from which the file has its name at export.
    """
    part = PurePosixPath(record.onnx_file or path.name)
    folder = absolute(path.parent)
    roots = [root for one in (folder, folder.resolve()) if (root := folder_above(one, part)) is not None]
    if not roots:
        raise MissingSiblingError(
            f"{path} is {str(part)[:_SHOWN]} of a model of several files, but it has fewer parent folders. Copy the "
            "whole folder of the model, or export it again."
        )
    return next((root for root in roots if _is_folder(root / part.parent, folder)), roots[0])


def absolute(path: Path) -> Path:
    """Return an absolute path.

    Links in it are kept, unless it contains `..`, which means the parent of a link's target.
    """
    return path.resolve() if ".." in path.parts else path.absolute()


def folder_above(folder: AnyPath, part: PurePosixPath) -> AnyPath | None:
    """Return the folder of a model, given the folder of one of its files and the file's name at export."""
    folders, depth = (folder, *folder.parents), len(part.parts) - 1
    return folders[depth] if depth < len(folders) else None


def _is_folder(path: Path, folder: Path) -> bool:
    try:
        return path.samefile(folder)
    except OSError:
        return False


def stamped_in(folder: Path) -> dict[Path, ExportMetadata]:
    """Return the stamped ONNX files of a folder with their records, by name."""
    found = ((path, record_if_any(path)) for path in sorted(folder.glob(ONNX_PATTERN)))
    return {path: record for path, record in found if record is not None}


def parts_of(path: Path, metadata: ExportMetadata, watch: Watch) -> ModelFiles:
    """Return the existing files of a multi-file model, by their names at export."""
    folder, found = model_root(path, metadata), {}
    watch.see_folder(folder)
    for name in metadata.onnx_files:
        file = path if name == metadata.onnx_file else sibling(folder, name, metadata, watch)
        if file is not None:
            found[name] = file
    return ModelFiles(folder, found, _missing(path, metadata, folder, found))


def sibling(folder: Path, name: str, metadata: ExportMetadata, watch: Watch | None = None) -> Path | None:
    """Return the file with this name in the same export, renamed or not; None if it is missing."""
    expected = folder / name
    for candidate in (expected, *sorted(expected.parent.glob(ONNX_PATTERN))):
        if watch is not None:
            watch.see(candidate)
        other = record_if_any(candidate)
        if other is not None and other.belongs_with(metadata) and other.onnx_file in (None, name):
            return candidate
    return None


def _missing(
    path: Path, metadata: ExportMetadata, folder: Path, found: Mapping[str, Path]
) -> MissingSiblingError | None:
    missing = [folder / name for name in metadata.onnx_files if name not in found]
    if not missing:
        return None
    merged = " Of the decoders, a merged one is enough." if any("merged" in one.name for one in missing) else ""
    names = ", ".join(f"{one}{' (the one there is of another export)' if one.is_file() else ''}" for one in missing)
    return MissingSiblingError(
        f"{names} {'is' if len(missing) == 1 else 'are'} missing: {path.name} is part of a model of "
        f"{len(metadata.onnx_files)} files ({', '.join(metadata.onnx_files)}), which must stay together. Copy the "
        f"missing files there, or export again.{merged}"
    )
