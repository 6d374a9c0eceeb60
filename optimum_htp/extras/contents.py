"""Files of a model on disk: ONNX files with their external data, and configs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from optimum_htp import plugins
from optimum_htp.errors import ArgumentError, MetadataError, OnnxFileNotFoundError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.libraries.code_references import may_refer_to_code, refuse_code
from optimum_htp.libraries.repo_files import config_files
from optimum_htp.metadata import ExportMetadata, read_record
from optimum_htp.onnxfile import contained_files
from optimum_htp.onnxfile.replace_files import Watch
from optimum_htp.origin.evidence import require_unchanged
from optimum_htp.resolve.config_folder import config_source, preprocessor_folder
from optimum_htp.resolve.embedded import EmbeddedFiles
from optimum_htp.resolve.model_files import absolute, parts_of, require_parts

__all__ = ["OnnxFile", "configs_beside", "configs_of", "onnx_files", "refuse_code_among", "refuse_link_out"]


@dataclass(frozen=True)
class OnnxFile:
    """A stamped ONNX file, its record, and its external data files, relative to its folder.

    The name is the path relative to the folder of the model, with `/`. A renamed part has the name that its export
    gave it.
    """

    path: Path
    name: str
    record: ExportMetadata
    data: tuple[str, ...]


def onnx_files(paths: Sequence[str | os.PathLike[str]], watch: Watch) -> tuple[OnnxFile, ...]:
    """Return the ONNX files of paths (files, and folders of them), each with the other parts of its model.

    Hidden files are skipped. `watch` records the files, to detect changes.
    """
    found: dict[Path, OnnxFile] = {}
    for given in (absolute(Path(path)) for path in paths):
        inside = sorted(_below(given, ".onnx")) if given.is_dir() else [given]
        if not inside:
            raise OnnxFileNotFoundError(f"{given} contains no ONNX file. Check the path.")
        watch.see_folder(given if given.is_dir() else given.parent)
        for path in inside:
            parts = _parts(path, watch)
            is_below = given.is_dir() and all(part.is_relative_to(given) for part in parts.values())
            for name, part in parts.items():
                if part not in found:
                    watch.see(part)
                    label = part.relative_to(given).as_posix() if is_below else name
                    found[part] = OnnxFile(part, label, _record(part), contained_files(part))
    return tuple(found.values())


def configs_beside(folder: Path, files: Sequence[OnnxFile]) -> dict[str, Path]:
    """Return the config and preprocessor files in a folder of ONNX files, by name."""
    names = [path.relative_to(folder).as_posix() for path in _below(folder)]
    libraries = {file.record.export_library or "transformers" for file in files}
    found = {name: folder / name for library in libraries for name in config_files(names, library=library)}
    if any(file.path.is_relative_to(absolute(folder)) for file in files):  # not the cache, which consists of links
        for path in found.values():
            refuse_link_out(path, folder, files)
    return found


def refuse_link_out(path: Path, folder: Path, files: Sequence[OnnxFile]) -> None:
    """Reject a file that is a link to another folder, because its target can be a secret.

    Links to the folders of the ONNX files are allowed, as in the cache of the Hub.
    """
    allowed = {folder.resolve(), *(file.path.resolve().parent for file in files)}
    real = path.resolve()
    if allowed.isdisjoint(real.parents):
        raise ArgumentError(
            f"{path} is a link to {real}, outside of {folder}. A push would publish that file. Replace the link with "
            "a copy, or delete it."
        )


def configs_of(file: OnnxFile, access: HubAccess) -> Mapping[str, Path]:
    """Return the config and preprocessor files of a model by name: adjacent, embedded, or of its commit."""
    source = config_source(file.path, file.record, access, None, False, needed=True)
    assert source is not None  # with needed=True it raises instead
    folders = [source.folder() if isinstance(source, EmbeddedFiles) else source.folder]
    if file.record.preprocessors:
        folders.append(preprocessor_folder(file.path, file.record, access))
    found: dict[str, Path] = {}
    for folder in folders:
        found = {**configs_beside(folder, [file]), **found}
    record = file.record
    if record.hub_id is not None and record.hub_sha is not None:
        hub = plugins.hub(record.hub_provider)
        for folder in folders:
            require_unchanged(hub, record.hub_id, record.hub_sha, folder, found, access)
    return found


def refuse_code_among(configs: Mapping[str, Path], holder: object, what: str) -> None:
    """Reject configs, by their names at the target, that make a library import code.

    The message names the holder (the model) and the purpose of the configs.
    """
    for name, path in configs.items():
        if may_refer_to_code(name):
            refuse_code({name: path.read_bytes()}, holder, f"Remove the value, or {name}, to make {what}.")


def _parts(path: Path, watch: Watch) -> Mapping[str, Path]:
    record = _record(path)
    if not record.onnx_files:
        return {path.name: path}
    parts = parts_of(path, record, watch)
    require_parts(parts, record)
    return parts.by_name


def _record(path: Path) -> ExportMetadata:
    record = read_record(path)
    if record is None:
        raise MetadataError(
            f"{path} has no record of its model. Add one with `optimum-cli htp inject {path} --model ID`."
        )
    return record


def _below(folder: Path, suffix: str = "") -> Iterator[Path]:
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(here, name) for name in names if name.endswith(suffix) and not name.startswith("."))
