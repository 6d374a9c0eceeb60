"""Loading ONNX files as transformers' `ExportedModel`: `ExportedModel.from_pretrained("model.onnx")`.

The file, or the first one of its model, carries the `export.json` that the class reads, and the config; else the
config is fetched at the file's commit, and `export.json` is next to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_htp.errors import ConfigLoadError, MissingSiblingError, OnnxFileNotFoundError, SeveralModelsError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.libraries.names import CONFIG, EXPORT_MANIFEST, GENERATION_CONFIG
from optimum_htp.libraries.repo_files import read_json
from optimum_htp.loading.recognize import local_path, names_a_file
from optimum_htp.metadata import ExportMetadata, read_record
from optimum_htp.onnxfile import contained_files
from optimum_htp.onnxfile.replace_files import Watch, read_whole
from optimum_htp.resolve.config_folder import config_source
from optimum_htp.resolve.configs import folder_of, load_config, load_generation_config
from optimum_htp.resolve.export_manifest import ExportManifest, carries_manifest, manifest_of
from optimum_htp.resolve.model_files import parts_of, stamped_in

if TYPE_CHECKING:
    from transformers.exporters import ExportedModel

__all__ = ["exported_file", "load"]


def exported_file(model_id: Any, options: Mapping[str, Any]) -> Path | None:
    """Return the ONNX file that a call of `ExportedModel.from_pretrained` means if it is ours to load, else None.

    Ours are paths that end in `.onnx`, folders without `export.json` that hold files which carry it, and folders
    whose files have their weights inside.

    Args:
        model_id: What was given to `from_pretrained`.
        options: Its keyword arguments.

    Raises:
        SeveralModelsError: The folder holds files of several models.
    """
    if names_a_file(model_id):
        return Path(local_path(model_id)).expanduser()
    folder = Path(local_path(model_id), options.get("subfolder") or "")
    if (folder / EXPORT_MANIFEST).is_file():
        manifest = ExportManifest.of(read_json(folder / EXPORT_MANIFEST))
        if manifest is None:
            return None
        files = [folder / name for name in manifest.files.values()]
        complete = all(file.is_file() for file in files)
        if complete and any(not file.with_name(f"{file.name}.data").exists() for file in files):
            return files[0]
        return None
    carrying = {path: record for path, record in stamped_in(folder).items() if carries_manifest(record)}
    if not carrying:
        return None
    first, *others = carrying
    if others and not _are_one_model(carrying):
        raise SeveralModelsError(
            f"{folder} holds {len(carrying)} models ({', '.join(path.name for path in carrying)}): name one of these "
            "files."
        )
    return first


def _are_one_model(carrying: Mapping[Path, ExportMetadata]) -> bool:
    """Whether files are parts of one model: of one export, or stamped one by one with the manifest that names all."""
    first, *_ = carrying
    record = carrying[first]
    if record.onnx_files:
        return all(record.belongs_with(other) for other in carrying.values())
    manifests = {file for other in carrying.values() for file in other.embedded_files if file.name == EXPORT_MANIFEST}
    commits = {(other.hub_provider, other.hub_id, other.hub_sha) for other in carrying.values()}
    if len(manifests) > 1 or len(commits) > 1:
        return False
    manifest = manifest_of(first, record)
    return manifest is not None and {path.name for path in carrying} <= {*manifest.files.values()}


def load(
    cls: type[ExportedModel],
    path: Path,
    *,
    device: Any = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    token: str | bool | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    **options: Any,
) -> ExportedModel:
    """Load an ONNX file, and the others of its model, as an `ExportedModel`; the arguments are that class's.

    `revision` overrides the commit that the file is pinned to.

    Raises:
        OnnxFileNotFoundError: There is no such file, or one that belongs to it is missing.
        InvalidOnnxFileError: A file keeps data outside its folder.
        ConfigLoadError: There is neither an `export.json` in the file nor beside it.
        HFHubIntegrationError: The Hub does not give the config; the subclass says why.
    """
    if not path.is_file():
        raise OnnxFileNotFoundError(f"There is no ONNX file at {path}. Check the path.")
    access = HubAccess(
        token=token, cache_dir=cache_dir, local_files_only=local_files_only, force_download=force_download
    )

    def loaded(watch: Watch) -> ExportedModel:
        watch.see(path)
        record = read_record(path)
        manifest = manifest_of(path, record)
        if manifest is None:
            raise ConfigLoadError(
                f"{path} has no {EXPORT_MANIFEST} in it or beside it: it was not exported by transformers' exporters. "
                "Load it with Optimum's ORTModel classes, or export it again with --engine transformers."
            )
        model = _model(cls, _files(path, record, manifest, watch), manifest)
        model.config, model.generation_config = _configs(path, record, access, revision, trust_remote_code)
        return model.to(device, **options)

    return read_whole(path.parent, loaded)


def _files(path: Path, record: ExportMetadata | None, manifest: ExportManifest, watch: Watch) -> dict[str, Path]:
    """Return the file of each component, renamed or not.

    Raises:
        MissingSiblingError: One is not there.
        InvalidOnnxFileError: One keeps data outside its folder.
    """
    if len(manifest.files) == 1:
        found = dict.fromkeys(manifest.files, path)
    elif record is not None and record.onnx_files:
        parts = parts_of(path, record, watch).by_name
        found = {name: parts.get(file, path.parent / file) for name, file in manifest.files.items()}
    else:
        found = {name: path.parent / file for name, file in manifest.files.items()}
    for file in found.values():
        watch.see(file)
        if not file.is_file():
            raise MissingSiblingError(
                f"{file} is missing: {path.name} is part of a model of {len(found)} files "
                f"({', '.join(manifest.files.values())}), which have to stay together. Copy it there, or export again."
            )
        contained_files(file)
    return found


def _model(cls: type[ExportedModel], files: Mapping[str, Path], manifest: ExportManifest) -> ExportedModel:
    """Return the model of these files, as `ExportedModel.from_pretrained` makes it."""
    from transformers.exporters import ExportedComponent, ExportMetadata, OnnxExporter
    from transformers.exporters.metadata import register_treespec_types

    components = {}
    for name, file in files.items():
        metadata = ExportMetadata.from_dict(manifest.metadata(name))
        for spec in (metadata.in_spec, metadata.out_spec):
            if spec is not None:
                register_treespec_types(spec)
        components[name] = ExportedComponent(OnnxExporter.load_program(file), metadata)
    return cls(components, OnnxExporter.export_format)


def _configs(
    path: Path, record: ExportMetadata | None, access: HubAccess, revision: str | None, trusted: bool
) -> tuple[Any, Any]:
    """Return config and generation config; None for one that does not exist."""
    needed = record is not None or (path.parent / CONFIG).is_file()
    source = config_source(path, record, access, revision, trusted, needed=needed)
    if source is None:
        return None, None
    config = load_config(source, record, trust_remote_code=trusted, anew=access.force_download)
    has_own = (folder_of(source) / GENERATION_CONFIG).is_file()
    return config, load_generation_config(source, config) if has_own else None
