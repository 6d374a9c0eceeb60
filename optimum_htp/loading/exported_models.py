"""Loads ONNX files as transformers' `ExportedModel`: `ExportedModel.from_pretrained("model.onnx")`.

The class reads an `export.json` and a config. Both are embedded in the model's first file. Otherwise `export.json` is
next to the file, and the config comes from the file's commit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_htp.errors import ConfigLoadError, MissingSiblingError, OnnxFileNotFoundError, SeveralModelsError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.libraries.names import CONFIG, EXPORT_MANIFEST, GENERATION_CONFIG
from optimum_htp.libraries.repo_files import read_json
from optimum_htp.loading.recognize import local_path, names_a_file, path_of_file
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
    """Return the ONNX file for a call of `ExportedModel.from_pretrained`, or None if transformers loads it itself.

    An ONNX file is returned for paths that end in `.onnx`, for folders without `export.json` whose files embed it, and
    for folders with a file without external data.
    """
    if names_a_file(model_id):
        return path_of_file(model_id)
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
            f"{folder} contains {len(carrying)} models ({', '.join(path.name for path in carrying)}). Pass the path "
            "of one of these files."
        )
    return first


def _are_one_model(carrying: Mapping[Path, ExportMetadata]) -> bool:
    """Whether files are parts of one model: of one export, or with one embedded manifest that names all of them."""
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
    """Load the ONNX files of a model as an `ExportedModel`. The arguments are those of this class.

    `revision` overrides the commit in the file's record.
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
                f"{path} has no {EXPORT_MANIFEST} in it or next to it: it was not exported with transformers' engine. "
                "Load it with Optimum's ORTModel classes, or export it again with --engine transformers."
            )
        model = _model(cls, _files(path, record, manifest, watch), manifest)
        model.config, model.generation_config = _configs(path, record, access, revision, trust_remote_code)
        return model.to(device, **options)

    return read_whole(path.parent, loaded)


def _files(path: Path, record: ExportMetadata | None, manifest: ExportManifest, watch: Watch) -> dict[str, Path]:
    """Return the file of each component, also if the files were renamed. External data must be in its folder."""
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
                f"({', '.join(manifest.files.values())}). Copy the file to this folder, or export the model again."
            )
        contained_files(file)
    return found


def _model(cls: type[ExportedModel], files: Mapping[str, Path], manifest: ExportManifest) -> ExportedModel:
    """Return the model of these files, like `ExportedModel.from_pretrained`."""
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
    """Return config and generation config, each None if it does not exist."""
    needed = record is not None or (path.parent / CONFIG).is_file()
    source = config_source(path, record, access, revision, trusted, needed=needed)
    if source is None:
        return None, None
    config = load_config(source, record, trust_remote_code=trusted, anew=access.force_download)
    has_own = (folder_of(source) / GENERATION_CONFIG).is_file()
    return config, load_generation_config(source, config) if has_own else None
