"""Where the configs of an ONNX file are: beside it, or on the Hub at its commit."""

from __future__ import annotations

import logging
from pathlib import Path

from optimum_htp.errors import ConfigLoadError, HubUnreachableError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.metadata import ExportMetadata
from optimum_htp.origin.commit_files import ConfigFolder, resolve_configs, resolve_preprocessors
from optimum_htp.origin.fit import misfit
from optimum_htp.origin.repo_files import MODEL_CONFIGS, config_files, read_json

__all__ = ["config_folder", "has_preprocessors", "preprocessor_folder"]

logger = logging.getLogger(__name__)

_CONFIG, _ = MODEL_CONFIGS


def config_folder(
    path: Path,
    metadata: ExportMetadata | None,
    access: HubAccess,
    revision: str | None,
    trust_remote_code: bool,
    *,
    needed: bool,
) -> ConfigFolder | None:
    """Return the folder that config and preprocessors come from: the file's own, or a snapshot of its commit.

    None only where nothing is `needed` and nothing can be had.
    """
    from_hub = metadata is not None and metadata.model_type == "hub"
    if has_own_config(path, metadata, revision, needed=needed):
        return ConfigFolder(path.parent)
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
) -> Path:
    """Return the folder that a file's preprocessors come from.

    It is the file's own where its config is there, and with it a preprocessor; otherwise that of its commit. A file
    that is of no commit has them beside it, with its config or without.

    Raises:
        ConfigLoadError: The file is of no commit, and has neither a config nor preprocessors beside it.
        HFHubIntegrationError: The Hub does not give the files; the subclass says why.
    """
    if metadata is None or metadata.model_type == "local":
        if not (path.parent / _CONFIG).is_file() and has_preprocessors(path.parent):
            return path.parent
        source = config_folder(path, metadata, access, revision, False, needed=True)
        assert source is not None  # it raises where there is none
        return source.folder
    names = [name for name in metadata.config_files or () if name not in MODEL_CONFIGS]
    if any((path.parent / name).is_file() for name in names) and has_own_config(path, metadata, revision):
        return path.parent
    return resolve_preprocessors(metadata, access, revision=revision, with_code=with_code).folder


def has_preprocessors(folder: Path) -> bool:
    """Whether a folder holds files that preprocessors are loaded from."""
    return not {*config_files([file.name for file in folder.iterdir()])} <= {*MODEL_CONFIGS}
