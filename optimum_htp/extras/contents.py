"""What belongs to a model on disk: its ONNX files with their external data, and the configs that loaders look for."""

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
    """A stamped ONNX file.

    Attributes:
        path: Where it is.
        name: Relative to the model's folder, with `/`; a part of a model has the name of its export, renamed or not.
        record: What it says of itself.
        data: Its external data files, relative to its own folder.
    """

    path: Path
    name: str
    record: ExportMetadata
    data: tuple[str, ...]


def onnx_files(paths: Sequence[str | os.PathLike[str]], watch: Watch) -> tuple[OnnxFile, ...]:
    """Return the files that paths stand for, each with those that make up its model.

    Args:
        paths: ONNX files, and folders of them; what is hidden in a folder is left out.
        watch: Is told what was seen.

    Raises:
        OnnxFileNotFoundError: There is none; `MissingSiblingError` where a part of a model is missing.
        InvalidOnnxFileError: One is damaged, or keeps data outside its folder.
        MetadataError: One does not say which model it came from.
    """
    found: dict[Path, OnnxFile] = {}
    for given in (absolute(Path(path)) for path in paths):
        inside = sorted(_below(given, ".onnx")) if given.is_dir() else [given]
        if not inside:
            raise OnnxFileNotFoundError(f"There is no ONNX file in {given}. Check the path.")
        watch.see_folder(given if given.is_dir() else given.parent)
        for path in inside:
            parts = _parts(path, watch)
            is_below = given.is_dir() and all(part.is_relative_to(given) for part in parts.values())
            for name, part in parts.items():
                if part not in found:
                    watch.see(part)
                    place = part.relative_to(given).as_posix() if is_below else name
                    found[part] = OnnxFile(part, place, _record(part), contained_files(part))
    return tuple(found.values())


def configs_beside(folder: Path, files: Sequence[OnnxFile]) -> dict[str, Path]:
    """Return the config and preprocessor files in a folder of ONNX files, by name.

    Raises:
        ArgumentError: One is a link that leads out of the folder.
    """
    names = [path.relative_to(folder).as_posix() for path in _below(folder)]
    libraries = {file.record.export_library or "transformers" for file in files}
    found = {name: folder / name for library in libraries for name in config_files(names, library=library)}
    if any(file.path.is_relative_to(absolute(folder)) for file in files):  # not the cache, which is full of links
        for path in found.values():
            refuse_link_out(path, folder, files)
    return found


def refuse_link_out(path: Path, folder: Path, files: Sequence[OnnxFile]) -> None:
    """Refuse to publish a file that is a link to another folder: what comes from others may have links to secrets.

    Links may lead to where those of the ONNX files lead, as in the Hub's cache.

    Raises:
        ArgumentError: It is one.
    """
    homes = {folder.resolve(), *(file.path.resolve().parent for file in files)}
    real = path.resolve()
    if homes.isdisjoint(real.parents):
        raise ArgumentError(
            f"{path} is a link that leads out of {folder}, to {real}, whose content would be published. Put a copy of "
            "it in its place, or delete the link."
        )


def configs_of(file: OnnxFile, access: HubAccess) -> Mapping[str, Path]:
    """Return the config and preprocessor files of a file's model, by name: from beside it, from in it, or its commit.

    Raises:
        ConfigLoadError: It is of no commit, and they are not there.
        ChangedCacheError: A file in the cache is not the commit's.
        HFHubIntegrationError: The Hub does not give them; the subclass says why.
    """
    source = config_source(file.path, file.record, access, None, False, needed=True)
    assert source is not None  # it raises where there is none
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
    """Refuse configs that would make a library import code where they are written to.

    Args:
        configs: Configs, by the names that they get.
        holder: The model that they belong to, for the message.
        what: What they are for, for the message.

    Raises:
        UntrustedCodeError: One of them would.
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
            f"{path} does not say which model it came from. Stamp it first: `optimum-cli htp inject {path} --model "
            "ID`."
        )
    return record


def _below(folder: Path, suffix: str = "") -> Iterator[Path]:
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(here, name) for name in names if name.endswith(suffix) and not name.startswith("."))
