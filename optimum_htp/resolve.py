"""From a file's metadata to a local folder with the config and preprocessor files of its commit.

The cache is asked first: what a commit holds never changes, so files that are there need no request. What is
missing is fetched side by side, and nothing but that.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from optimum_htp import plugins
from optimum_htp.errors import ConfigLoadError, HubUnreachableError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.metadata import ExportMetadata
from optimum_htp.repofiles import MODEL_CONFIGS, config_files

if TYPE_CHECKING:
    from transformers import PretrainedConfig

__all__ = ["load_config", "resolve_configs", "resolve_preprocessors"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Pin:
    """A commit of a repo and the config files in it, None where they have to be found out."""

    commit: str
    files: tuple[str, ...] | None


def resolve_configs(
    metadata: ExportMetadata, access: HubAccess, *, revision: str | None = None, with_code: bool = False
) -> Path:
    """Return a folder with the config and generation config of the model that a file came from.

    Args:
        metadata: Of a file that came from a Hub.
        access: How to reach that Hub.
        revision: Overrides the commit of the file.
        with_code: Whether the repo's own Python modules are wanted too.

    Raises:
        HFHubIntegrationError: The model, its commit or the files cannot be had; the subclass says why.
    """
    pin = _pin(metadata, access, revision)
    optional: tuple[str, ...] = ()
    if pin.files is None:
        config, *optional_configs = MODEL_CONFIGS
        wanted, optional = [config], tuple(optional_configs)
        if with_code:
            wanted += [name for name in _listed(metadata, pin.commit, access) if name.endswith(".py")]
    else:
        wanted = [name for name in pin.files if name in MODEL_CONFIGS or (with_code and name.endswith(".py"))]
    return _snapshot(metadata, pin.commit, wanted, access, optional)


def resolve_preprocessors(metadata: ExportMetadata, access: HubAccess, *, revision: str | None = None) -> Path:
    """Return a folder with every config and preprocessor file of the model that a file came from.

    Raises:
        HFHubIntegrationError: The model, its commit or the files cannot be had; the subclass says why.
    """
    pin = _pin(metadata, access, revision)
    files = pin.files if pin.files is not None else _listed(metadata, pin.commit, access)
    return _snapshot(metadata, pin.commit, files, access)


def load_config(folder: Path, metadata: ExportMetadata | None, *, trust_remote_code: bool = False) -> PretrainedConfig:
    """Load a folder's `config.json` as the class that it names.

    Raises:
        ConfigLoadError: It is missing, damaged, or needs code that is not trusted.
    """
    from transformers import AutoConfig, PretrainedConfig

    loader = PretrainedConfig if metadata is not None and metadata.export_library == "timm" else AutoConfig
    try:
        return loader.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        source = metadata.source if metadata is not None else "the model"
        raise ConfigLoadError(f"The config of {source} in {folder} cannot be loaded: {error}") from error


def _pin(metadata: ExportMetadata, access: HubAccess, revision: str | None) -> _Pin:
    hub, repo_id = plugins.hub(metadata.hub_provider), str(metadata.hub_id)
    if revision is not None and revision != metadata.hub_sha:
        try:
            info = hub.info(repo_id, revision, access)
        except HubUnreachableError:
            commit = hub.cached_commit(repo_id, revision, access)
            if commit is None:
                raise
            return _Pin(commit, None)
        return _Pin(info.commit, config_files(info.files, with_code=True))
    if metadata.hub_sha is not None:
        return _Pin(metadata.hub_sha, metadata.config_files)
    return _Pin(hub.full_commit(repo_id, str(metadata.hub_revision), access), metadata.config_files)


def _listed(metadata: ExportMetadata, commit: str, access: HubAccess) -> tuple[str, ...]:
    """Ask the Hub which config files a commit has."""
    info = plugins.hub(metadata.hub_provider).info(str(metadata.hub_id), commit, access)
    library = metadata.export_library or "transformers"
    return config_files(info.files, library=library, with_code=True)


def _snapshot(
    metadata: ExportMetadata, commit: str, files: Sequence[str], access: HubAccess, optional: Sequence[str] = ()
) -> Path:
    hub = plugins.hub(metadata.hub_provider)
    logger.debug("Resolving %d files of %s at %s", len(files), metadata.hub_id, commit)
    return hub.snapshot(str(metadata.hub_id), commit, files, access, optional=optional)
