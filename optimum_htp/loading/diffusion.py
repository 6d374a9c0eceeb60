"""Loads diffusion pipelines from ONNX files alone, in a temporary folder with the layout that Optimum's class reads.

Optimum's diffusion classes read a config next to each part's file, a scheduler and tokenizers. These files are
embedded in the first ONNX file, or come from its commit. They are linked into the temporary folder, and so are the
ONNX files.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, Final

from optimum_htp.errors import ConfigLoadError
from optimum_htp.hierarchy.parts import COMPONENTS
from optimum_htp.hubs.base import HubAccess
from optimum_htp.libraries.names import CONFIG, MODEL_INDEX, ONNX_FILE
from optimum_htp.loading.onnx_repos import find_onnx_repo
from optimum_htp.loading.other_commits import needs_reload
from optimum_htp.metadata import ExportMetadata, record_if_any
from optimum_htp.onnxfile import contained_files
from optimum_htp.onnxfile.copying import link_or_copy
from optimum_htp.resolve.adjacent import PIPELINE, other_snapshot
from optimum_htp.resolve.config_folder import carrier_of, find, overriding
from optimum_htp.resolve.configs import folder_of
from optimum_htp.resolve.embedded import EmbeddedFiles
from optimum_htp.resolve.model_files import ModelFiles, model_root, require_parts

__all__ = ["fetched_pipeline", "pipeline_of_its_commit", "pipeline_record", "link_pipeline_folder"]

_DENOISERS: Final = ("unet", "transformer")  # every pipeline has one of them


def pipeline_record(path: str | os.PathLike[str], options: Mapping[str, Any]) -> tuple[Path, ExportMetadata] | None:
    """Return the folder and the record of an exported pipeline without own configs, or None for anything else.

    The path is the folder, or one of the pipeline's ONNX files. MissingSiblingError: it is not in such a folder.
    """
    try:
        given = Path(path).expanduser()
    except RuntimeError:  # `~name` of an unknown user
        return None
    access = HubAccess.from_options({**options, "force_download": None})
    files = [given] if given.suffix == ".onnx" else [given / part / ONNX_FILE for part in _DENOISERS]
    for file in files:
        record = record_if_any(file)
        if record is not None and record.export_library == "diffusers" and record.onnx_file is not None:
            folder = model_root(file, record)
            has_own = (folder / MODEL_INDEX).is_file() and other_snapshot(file, record, access) is None
            return None if has_own else (folder, record)
    return None


def fetched_pipeline(repo_id: Any, options: Mapping[str, Any]) -> tuple[Path, ExportMetadata] | None:
    """Download the ONNX files of a pipeline in a Hub repo. Return their folder and the record."""
    for part in _DENOISERS:
        asked = {**options, "subfolder": part}
        repo = find_onnx_repo(repo_id, asked)
        if repo is None:  # Optimum has fetched a repo with configs
            repo = find_onnx_repo(repo_id, {**asked, "local_files_only": True}, bare=False)
            if repo is not None and overriding(repo.record_if_any(), options.get("revision")) is not None:
                repo = None
        if repo is not None:
            return pipeline_record(repo.fetch(), options)
    return None


def pipeline_of_its_commit(pipeline: Any, options: Mapping[str, Any]) -> tuple[Path, ExportMetadata] | None:
    """Return the folder and the record of a pipeline that Optimum has loaded with the configs of another commit.

    Returns None if the configs are those of the files' own commit.
    """
    paths = (getattr(getattr(pipeline, part, None), "path", None) for part in _DENOISERS)
    path = next((path for path in paths if isinstance(path, Path)), None)
    if path is None or (found := pipeline_record(path, options)) is None:
        return None
    return found if needs_reload(path, options) else None


def link_pipeline_folder(
    parts: ModelFiles,
    record: ExportMetadata,
    access: HubAccess,
    revision: str | None = None,
    *,
    trust_remote_code: bool = False,
) -> TemporaryDirectory[str]:
    """Return a temporary folder with the ONNX files of a pipeline and the configs of their commit.

    External data must be in the folder of its file. ConfigLoadError: The pipeline was not exported from a Hub, and its
    configs are not embedded. Other exceptions are those of `find` and `require_parts`.
    """
    require_parts(parts, record)
    path = parts.by_name[str(record.onnx_file)]
    needed = record.model_type == "hub"
    source = find(
        carrier_of(path, record, access), PIPELINE, access, revision, with_code=trust_remote_code, needed=needed
    )
    if source is None:
        raise ConfigLoadError(
            f"{parts.folder} was exported from a local pipeline, and its {MODEL_INDEX} is missing. Copy the configs "
            "of the pipeline and of its parts to this folder, or export the pipeline again."
        )
    configs = folder_of(source)
    names = source.names if isinstance(source, EmbeddedFiles) else record.config_files
    made = TemporaryDirectory(prefix="optimum-htp-")
    root = Path(made.name)
    for name in names or [path.relative_to(configs).as_posix() for path in configs.rglob("*")]:
        if (configs / name).is_file():
            _link(configs / name, root / name)
    for name, file in parts.by_name.items():
        part = PurePosixPath(name).parent.as_posix()
        _link(file, root / name)
        for location in contained_files(file):
            _link(file.parent / location, root / part / location)
        config = configs / COMPONENTS.get(part, part) / CONFIG
        if config.is_file() and not (root / part / CONFIG).exists():
            _link(config, root / part / CONFIG)
    return made


def _link(target: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link_or_copy(target, link)
