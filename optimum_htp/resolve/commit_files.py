"""Provides a local folder with the config and preprocessor files of the commit in a record.

The cache is searched first: the content of a commit never changes, so existing files need no request. Missing files
are downloaded in parallel. A process remembers the folders.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from optimum_htp import plugins
from optimum_htp.caching import LRUCache
from optimum_htp.errors import (
    ConfigFileNotFoundError,
    ModelNotFoundError,
    OptimumHTPError,
    RepoDisabledError,
    RevisionNotFoundError,
)
from optimum_htp.hubs.base import HubAccess
from optimum_htp.libraries.code_references import refuse_code_in
from optimum_htp.libraries.repo_files import MODEL_CONFIGS, config_files, is_sentence_transformers_file
from optimum_htp.masking import get_logger
from optimum_htp.metadata import ExportMetadata
from optimum_htp.origin.references import find_commit
from optimum_htp.resolve.order import CommitFiles, find_files, within_order

__all__ = ["ConfigFolder", "resolve_configs", "resolve_file", "resolve_preprocessors"]

logger = get_logger(__name__)

_CONFIG, _GENERATION_CONFIG = MODEL_CONFIGS
_LISTS: Final = 64  # Lists of config files, of at most 128 KiB each.
_REMEMBERED: Final = 256  # Folders.


@dataclass(frozen=True)
class ConfigFolder:
    """A folder with a model's configs. `commit` is provider, repo id and commit; None for files that may change."""

    folder: Path
    commit: tuple[str, str, str] | None = None


@dataclass(frozen=True)
class _Pin:
    """A commit of a repo and its config files; None if they are unknown."""

    commit: str
    files: tuple[str, ...] | None


_folders: Final[LRUCache[tuple[Any, ...], Path]] = LRUCache(_REMEMBERED)


def resolve_configs(
    metadata: ExportMetadata,
    access: HubAccess,
    *,
    revision: str | None = None,
    with_code: bool = False,
    places: Sequence[str] | None = None,
) -> ConfigFolder:
    """Return a folder with the config and generation config of the model of a file.

    If they are not in the cache, the preprocessor files are downloaded too, because they are needed next. The revision
    overrides the commit of the file. `places` are those of `resolve/order.py` to search; None for all.

    Raises:
        ConfigFileNotFoundError: The commit has no config.
        UntrustedCodeError: The config refers to code, and `with_code` is not set.
        HFHubIntegrationError: The model, its commit or the files cannot be downloaded; the subclass gives the reason.
    """

    def find(pin: _Pin, asking: HubAccess) -> Path:
        wanted: tuple[str, ...] = (_CONFIG,)
        optional: tuple[str, ...] = (_GENERATION_CONFIG,)
        if pin.files is None:
            if with_code:
                wanted += tuple(name for name in _listed(metadata, pin.commit, asking) if name.endswith(".py"))
        else:
            wanted = tuple(name for name in pin.files if name in MODEL_CONFIGS or (with_code and _is_code(name)))
            optional = tuple(name for name in _readable(pin.files) if not _is_code(name) and name not in wanted)
        try:
            folder = _snapshot(metadata, pin.commit, wanted, access, optional, places)
        except OptimumHTPError as error:
            offline = dataclasses.replace(access, local_files_only=True, force_download=False)
            try:  # The needed files may be in the cache in spite of the error.
                folder = _snapshot(metadata, pin.commit, wanted, offline, places=places)
            except OptimumHTPError:
                raise error from None
        if not (folder / _CONFIG).is_file():
            raise ConfigFileNotFoundError(
                f"{metadata.hub_id} has no {_CONFIG} at {pin.commit}. Pass config=, or revision= with a commit that "
                "has one."
            )
        if not with_code:
            refuse_code_in(folder, MODEL_CONFIGS, f"{metadata.hub_id} at {pin.commit}")
        return folder

    return _remembered(metadata, access, places, revision, ("configs", with_code), find)


def resolve_preprocessors(
    metadata: ExportMetadata,
    access: HubAccess,
    *,
    revision: str | None = None,
    with_code: bool = False,
    places: Sequence[str] | None = None,
) -> ConfigFolder:
    """Return a folder with all config and preprocessor files of the model; see `resolve_configs`."""

    def find(pin: _Pin, asking: HubAccess) -> Path:
        files = pin.files if pin.files is not None else _listed(metadata, pin.commit, asking)
        wanted = tuple(name for name in _readable(files) if with_code or not _is_code(name))
        folder = _snapshot(metadata, pin.commit, wanted, access, places=places)
        if not with_code:
            refuse_code_in(folder, wanted, f"{metadata.hub_id} at {pin.commit}")
        return folder

    return _remembered(metadata, access, places, revision, ("preprocessors", with_code), find)


def resolve_file(
    metadata: ExportMetadata,
    name: str,
    access: HubAccess,
    *,
    revision: str | None = None,
    places: Sequence[str] | None = None,
) -> ConfigFolder:
    """Return a folder with a file that only sentence_transformers reads, and all other known files of this kind.

    See `resolve_configs`.
    """

    def find(pin: _Pin, asking: HubAccess) -> Path:
        known = [file for file in pin.files or () if is_sentence_transformers_file(file)]
        return _snapshot(metadata, pin.commit, known if name in known else [name], access, places=places)

    return _remembered(metadata, access, places, revision, ("file", name), find)


def _remembered(
    metadata: ExportMetadata,
    access: HubAccess,
    places: Sequence[str] | None,
    revision: str | None,
    what: tuple[Any, ...],
    find: Callable[[_Pin, HubAccess], Path],
) -> ConfigFolder:
    """Return a commit's folder from memory, or find it. A folder is remembered for the token that found it only."""
    asking = within_order(access, places)
    with _in_words_of(metadata):
        pin = _pin(metadata, asking, revision)
        commit = (metadata.hub_provider or plugins.HUGGING_FACE, str(metadata.hub_id), pin.commit)
        cache = None if access.cache_dir is None else os.fspath(access.cache_dir)
        # Two ONNX files of one commit may list different files, so the key contains the list.
        key = (*commit, cache, pin.files, *what)
        folder = _folders.get_or_make(key, lambda: find(pin, asking), anew=asking.force_download, valid=Path.is_dir)
    return ConfigFolder(folder, commit)


@contextmanager
def _in_words_of(metadata: ExportMetadata) -> Iterator[None]:
    """Extend the Hub's error with facts from the record, because the Hub reports private and missing models alike."""
    try:
        yield
    except (RevisionNotFoundError, RepoDisabledError):
        raise
    except ModelNotFoundError as error:
        if metadata.private:
            token = "HF_TOKEN" if metadata.hub_provider is None else f"the token for {metadata.hub_provider}"
            known = f"It was private when this file was exported. Set {token} to a token with access."
        elif metadata.private is False:
            known = "It was public when this file was exported, so it was removed or made private later."
        else:
            raise
        raise ModelNotFoundError(f"{error} {known}") from error


def _readable(files: Sequence[str]) -> tuple[str, ...]:
    """Return the files without those that only sentence_transformers reads. It requests them itself."""
    return tuple(name for name in files if not is_sentence_transformers_file(name))


def _is_code(name: str) -> bool:
    return name.endswith(".py")


def _pin(metadata: ExportMetadata, access: HubAccess, revision: str | None) -> _Pin:
    hub, repo_id = plugins.hub(metadata.hub_provider), str(metadata.hub_id)
    if revision is not None and revision != metadata.hub_sha:
        found = find_commit(hub, repo_id, revision, access)
        return _Pin(found.commit, None if found.info is None else _configs_among(found.info.files, metadata))
    if metadata.hub_sha is not None:
        return _Pin(metadata.hub_sha, _recorded(metadata))
    return _Pin(hub.full_commit(repo_id, str(metadata.hub_revision), access), _recorded(metadata))


def _listed(metadata: ExportMetadata, commit: str, access: HubAccess) -> tuple[str, ...]:
    """Request the list of a commit's config files from the Hub."""
    info = plugins.hub(metadata.hub_provider).info(str(metadata.hub_id), commit, access)
    return _configs_among(info.files, metadata)


def _recorded(metadata: ExportMetadata) -> tuple[str, ...] | None:
    """Return the config files that a record lists.

    The list is untrusted: only files that loaders read are downloaded.
    """
    if metadata.config_files is None:
        return None
    found = _configs_among(metadata.config_files, metadata)
    if others := set(metadata.config_files) - set(found):
        logger.info("Not downloaded for %s, because no loader reads it: %s", metadata.source, sorted(others))
    return found


def _configs_among(files: Sequence[str], metadata: ExportMetadata) -> tuple[str, ...]:
    return _allowed(tuple(files), metadata.export_library or "transformers")


@functools.lru_cache(_LISTS)  # Every load of a file calls this.
def _allowed(files: tuple[str, ...], library: str) -> tuple[str, ...]:
    return config_files(files, library=library, with_code=True)


def _snapshot(
    metadata: ExportMetadata,
    commit: str,
    files: Sequence[str],
    access: HubAccess,
    optional: Sequence[str] = (),
    places: Sequence[str] | None = None,
) -> Path:
    hub = plugins.hub(metadata.hub_provider)
    logger.debug("Resolving %d files of %s at %s", len(files), metadata.hub_id, commit)
    return find_files(CommitFiles(hub, str(metadata.hub_id), commit, files, access, optional, places))
