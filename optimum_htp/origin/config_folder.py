"""Where the configs and preprocessors of an ONNX file are: beside it, in it, or on the Hub at its commit.

Which of these is asked first is said in `origin/resolution.py`.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

from optimum_htp.errors import ConfigLoadError, DownloadError, HubUnreachableError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.masking import get_logger
from optimum_htp.metadata import ExportMetadata
from optimum_htp.origin.code_references import may_refer_to_code, names_own_code, references_in
from optimum_htp.origin.commit_files import ConfigFolder, resolve_configs, resolve_preprocessors
from optimum_htp.origin.configs import ConfigSource
from optimum_htp.origin.embedded import EmbeddedFiles, embedded_in
from optimum_htp.origin.fit import misfit
from optimum_htp.origin.names import EXPORT_MANIFEST, MODEL_INDEX
from optimum_htp.origin.repo_files import MODEL_CONFIGS, config_files, is_sentence_transformers_file, read_json
from optimum_htp.origin.resolution import BESIDE, EMBEDDED, asks, stages
from optimum_htp.parsing import json_or_none

__all__ = [
    "config_source",
    "embedded_preprocessors",
    "folder_of_record",
    "has_preprocessors",
    "pipeline_configs",
    "preprocessor_folder",
]

logger = get_logger(__name__)

_CONFIG, _ = MODEL_CONFIGS
_ELSEWHERE: Final = (HubUnreachableError, DownloadError)  # what another place may have nevertheless


def config_source(
    path: Path,
    metadata: ExportMetadata | None,
    access: HubAccess,
    revision: str | None,
    trust_remote_code: bool,
    *,
    needed: bool,
) -> ConfigSource | None:
    """Return where an ONNX file's config comes from: its own folder, itself, or a snapshot of its commit.

    None only where nothing is `needed` and nothing can be had.

    Raises:
        ConfigLoadError: There is none, or it needs code that is not to be had.
        EmbeddedFilesError: What is embedded is not what the file says.
        HFHubIntegrationError: The Hub does not give the config; the subclass says why.
    """
    from_hub = metadata is not None and metadata.model_type == "hub"
    embedded = _embedded(path, metadata, access, revision)
    if embedded is not None and _CONFIG not in embedded.names:
        embedded = None
    for stage in stages():
        if BESIDE in stage:
            if has_own_config(path, metadata, revision, needed=needed and embedded is None):
                return ConfigFolder(path.parent)
        elif EMBEDDED in stage:
            if embedded is not None and trust_remote_code and _has_code(embedded, (_CONFIG,)):
                return _with_code(embedded, metadata, access)
            if embedded is not None:
                return embedded
        elif metadata is not None and from_hub:
            with suppress(*_ELSEWHERE):
                return resolve_configs(metadata, access, revision=revision, with_code=trust_remote_code, places=stage)
    if metadata is not None and from_hub:
        if revision not in (None, metadata.hub_sha):
            logger.warning("%s was exported from %s, and revision=%r overrides that.", path, metadata.source, revision)
        try:
            return resolve_configs(metadata, access, revision=revision, with_code=trust_remote_code)
        except HubUnreachableError:
            if needed:
                raise
            return None
    if not needed:
        return None
    if metadata is not None:
        raise ConfigLoadError(
            f"{path} was exported from a local model, and its {_CONFIG} is not beside it. Copy the model's "
            f"{_CONFIG} into {path.parent}, or pass config=."
        )
    raise ConfigLoadError(
        f"{path} does not say which model it came from, and there is no {_CONFIG} beside it. Do one of these: "
        f"export the model again with `optimum-cli export htp`; say which it is with `optimum-cli htp inject {path} "
        f"--model ID`; copy its {_CONFIG} into {path.parent}; or pass config=."
    )


def has_own_config(path: Path, metadata: ExportMetadata | None, revision: str | None, *, needed: bool = True) -> bool:
    """Whether the `config.json` beside a file is there and is the file's own.

    Raises:
        ConfigLoadError: It is another model's, is `needed`, and could come from nowhere else.
    """
    beside = path.parent / _CONFIG
    if not beside.is_file():
        return False
    if metadata is None:
        return True
    if revision is not None and metadata.model_type == "hub":
        return False
    content = read_json(beside)
    reason = misfit(content, metadata, path) if isinstance(content, dict) else "it is not a JSON object"
    if reason is not None and metadata.model_type == "local" and needed:
        raise ConfigLoadError(
            f"{beside} is not the config of {path.name}: {reason}. Copy the right one there, or pass config=."
        )
    if reason is not None:
        logger.warning("%s is not used for %s (%s): %s", beside, path.name, metadata.source, reason)
    return reason is None


def preprocessor_folder(
    path: Path,
    metadata: ExportMetadata | None,
    access: HubAccess,
    revision: str | None = None,
    *,
    with_code: bool = False,
    slow: bool = False,
) -> Path:
    """Return the folder that a file's preprocessors come from.

    It is the file's own where its config is there, and with it a preprocessor; then one with what is embedded; then
    that of its commit. A file that is of no commit has them beside it, with its config or without.

    Args:
        path: The file.
        metadata: What it says of itself.
        access: How to reach the Hub.
        revision: Overrides the commit of the file.
        with_code: Whether code of the repo may run.
        slow: Whether a slow tokenizer is wanted, whose files may have been left out of what is embedded.

    Raises:
        ConfigLoadError: The file is of no commit, and has neither a config nor preprocessors beside it.
        EmbeddedFilesError: What is embedded is not what the file says.
        HFHubIntegrationError: The Hub does not give the files; the subclass says why.
    """
    embedded = embedded_preprocessors(path, metadata, access, revision)
    if embedded is not None and slow and metadata is not None and not _has_all(embedded, metadata):
        embedded = None
    local = metadata is None or metadata.model_type == "local"
    for stage in stages():
        if BESIDE in stage:
            if _are_beside(path, metadata, revision, fallback=embedded is not None):
                return path.parent
        elif EMBEDDED in stage:
            if embedded is not None and with_code and _has_code(embedded):
                return _with_code(embedded, metadata, access, preprocessors=True).folder
            if embedded is not None:
                return embedded.folder()
        elif metadata is not None and not local:
            with suppress(*_ELSEWHERE):
                return resolve_preprocessors(
                    metadata, access, revision=revision, with_code=with_code, places=stage
                ).folder
    if metadata is None or local:
        source = config_source(path, metadata, access, revision, False, needed=True)
        assert source is not None  # it raises where there is none
        return source.folder() if isinstance(source, EmbeddedFiles) else source.folder
    return resolve_preprocessors(metadata, access, revision=revision, with_code=with_code).folder


def embedded_preprocessors(
    path: Path, metadata: ExportMetadata | None, access: HubAccess, revision: str | None = None
) -> EmbeddedFiles | None:
    """Return what is embedded where that is all that a model is loaded with beside its weights, else None.

    A file may also carry its config alone; or nothing else, because its model has no preprocessors.
    """
    embedded = _embedded(path, metadata, access, revision)
    return embedded if embedded is not None and metadata is not None and _is_enough(embedded, metadata) else None


def folder_of_record(
    metadata: ExportMetadata,
    embedded: EmbeddedFiles | None,
    access: HubAccess,
    *,
    is_config: bool,
    with_code: bool = False,
    slow: bool = False,
) -> Path | None:
    """Return the folder with what belongs to an ONNX file in a repo: with what is embedded in it, or of its commit.

    Args:
        metadata: What the file says of itself.
        embedded: What is embedded in it.
        access: How to reach the Hub.
        is_config: Whether the configs are wanted, or what preprocessors are loaded from.
        with_code, slow: As of `preprocessor_folder`.

    Returns:
        None for a file of no commit in which it is not.

    Raises:
        ConfigLoadError: It needs code that is not to be had.
        EmbeddedFilesError: What is embedded is not what the file says.
        HFHubIntegrationError: The Hub does not give the files; the subclass says why.
    """
    from_hub = metadata.model_type == "hub"
    resolve = resolve_configs if is_config else resolve_preprocessors
    if embedded is not None:
        fits = _CONFIG in embedded.names if is_config else _is_enough(embedded, metadata)
        passed_over = from_hub and (access.force_download or (slow and not _has_all(embedded, metadata)))
        embedded = embedded if fits and asks(EMBEDDED) and not passed_over else None
    for stage in stages():
        if EMBEDDED in stage and embedded is not None:
            if with_code and _has_code(embedded, (_CONFIG,) if is_config else None):
                return _with_code(embedded, metadata, access, preprocessors=not is_config).folder
            return embedded.folder()
        if from_hub and BESIDE not in stage and EMBEDDED not in stage:
            with suppress(*_ELSEWHERE):
                return resolve(metadata, access, with_code=with_code, places=stage).folder
    return resolve(metadata, access, with_code=with_code).folder if from_hub else None


def _is_enough(embedded: EmbeddedFiles, metadata: ExportMetadata) -> bool:
    """Whether a model's preprocessors are loaded from what is embedded: not where that is its config alone."""
    return not {*embedded.names} <= {*MODEL_CONFIGS, EXPORT_MANIFEST} or not metadata.preprocessors


def _has_all(embedded: EmbeddedFiles, metadata: ExportMetadata) -> bool:
    """Whether nothing was left out of what is embedded because a fast tokenizer does without it."""
    names = metadata.config_files
    return names is None or {name for name in names if not name.endswith(".py")} <= {*embedded.names}


def pipeline_configs(
    path: Path, metadata: ExportMetadata, access: HubAccess, revision: str | None, *, with_code: bool = False
) -> tuple[Path | None, tuple[str, ...]]:
    """Return a folder with the configs of a diffusion pipeline, and their names where those are known.

    Args:
        path: One of its ONNX files.
        metadata, access, revision, with_code: As of `preprocessor_folder`.

    Returns:
        None for the folder where the pipeline is of no commit and does not carry its configs.
    """
    embedded = _embedded(path, metadata, access, revision)
    if embedded is not None and MODEL_INDEX in embedded.names and not (with_code and _has_code(embedded)):
        return embedded.folder(), embedded.names
    if metadata.model_type != "hub":
        return None, ()
    folder = resolve_preprocessors(metadata, access, revision=revision, with_code=with_code).folder
    return folder, metadata.config_files or ()


def has_preprocessors(folder: Path) -> bool:
    """Whether a folder holds files that preprocessors are loaded from."""
    return not {*config_files([file.name for file in folder.iterdir()])} <= {*MODEL_CONFIGS}


def _are_beside(path: Path, metadata: ExportMetadata | None, revision: str | None, *, fallback: bool) -> bool:
    if metadata is None or metadata.model_type == "local":
        if (path.parent / _CONFIG).is_file():
            return has_own_config(path, metadata, revision, needed=not fallback)
        return not fallback and has_preprocessors(path.parent)  # nobody can tell whether they fit
    names = [name for name in metadata.config_files or () if name not in MODEL_CONFIGS]
    return any((path.parent / name).is_file() for name in names) and has_own_config(path, metadata, revision)


def _embedded(
    path: Path, metadata: ExportMetadata | None, access: HubAccess, revision: str | None
) -> EmbeddedFiles | None:
    """Return what is embedded, unless the user asks for something newer."""
    if metadata is None or not metadata.embedded_files or not asks(EMBEDDED):
        return None
    if metadata.model_type == "hub" and (revision is not None or access.force_download):
        return None
    return embedded_in(path, metadata)


def _has_code(embedded: EmbeddedFiles, names: tuple[str, ...] | None = None) -> bool:
    """Whether one of the embedded configs names code; all configs but sentence_transformers' where none are named."""
    if names is None:
        names = tuple(name for name in embedded.names if not is_sentence_transformers_file(name))
    there = embedded.read([name for name in names if may_refer_to_code(name)], with_code=True)
    return bool(references_in(there)) or any(names_own_code(json_or_none(text)) for text in there.values())


def _with_code(
    embedded: EmbeddedFiles, metadata: ExportMetadata | None, access: HubAccess, *, preprocessors: bool = False
) -> ConfigFolder:
    """Return the configs of a commit together with the code that they name, which is never embedded.

    Raises:
        ConfigLoadError: The file is of no commit.
        HFHubIntegrationError: The Hub does not give the code; the subclass says why.
    """
    what = f"{embedded.path} carries its configs, and not the code that they name"
    if metadata is None or metadata.model_type != "hub":
        raise ConfigLoadError(
            f"{what}; it is of a local model, so that cannot be fetched. Copy the model's files, code included, into "
            f"{Path(embedded.path).parent}, or leave out trust_remote_code=True."
        )
    resolve = resolve_preprocessors if preprocessors else resolve_configs
    try:
        return resolve(metadata, access, with_code=True)
    except HubUnreachableError as error:
        raise type(error)(f"{what}, and that cannot be fetched. {error}") from error
