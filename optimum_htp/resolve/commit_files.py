"""From a file's metadata to a local folder with the config and preprocessor files of its commit.

The cache is asked first: what a commit holds never changes, so files that are there need no request. What is
missing is fetched side by side, and nothing but that. A process remembers the folders.
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
_LISTS: Final = 64  # lists of config files, of at most 128 KiB each
_REMEMBERED: Final = 256  # folders


@dataclass(frozen=True)
class ConfigFolder:
    """A folder with a model's configs.

    Attributes:
        folder: Where it is.
        commit: Provider, repo id and commit that its files are of; None for files that may change.
    """

    folder: Path
    commit: tuple[str, str, str] | None = None


@dataclass(frozen=True)
class _Pin:
    """A commit of a repo and the config files in it, None where they have to be found out."""

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
    """Return a folder with the config and generation config of the model that a file came from.

    Where they are not in the cache, the preprocessors' files are fetched beside them: they will be asked for next.

    Args:
        metadata: Of a file that came from a Hub.
        access: How to reach that Hub.
        revision: Overrides the commit of the file.
        with_code: Whether the repo's own Python modules are wanted too.
        places: Which places to ask, see `resolve/order.py`; None for all.

    Raises:
        ConfigFileNotFoundError: The commit has no config.
        UntrustedCodeError: The config refers to code, and that is not wanted.
        HFHubIntegrationError: The model, its commit or the files cannot be had; the subclass says why.
    """
    asking = within_order(access, places)

    def find(pin: _Pin) -> Path:
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
            try:  # what is wanted right now may be in the cache all the same
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

    return _remembered(metadata, asking, revision, ("configs", with_code), find)


def resolve_preprocessors(
    metadata: ExportMetadata,
    access: HubAccess,
    *,
    revision: str | None = None,
    with_code: bool = False,
    places: Sequence[str] | None = None,
) -> ConfigFolder:
    """Return a folder with every config and preprocessor file of the model; the arguments are `resolve_configs`'.

    Raises:
        UntrustedCodeError: One of the files refers to code, and that is not wanted.
        HFHubIntegrationError: The model, its commit or the files cannot be had; the subclass says why.
    """
    asking = within_order(access, places)

    def find(pin: _Pin) -> Path:
        files = pin.files if pin.files is not None else _listed(metadata, pin.commit, asking)
        wanted = tuple(name for name in _readable(files) if with_code or not _is_code(name))
        folder = _snapshot(metadata, pin.commit, wanted, access, places=places)
        if not with_code:
            refuse_code_in(folder, wanted, f"{metadata.hub_id} at {pin.commit}")
        return folder

    return _remembered(metadata, asking, revision, ("preprocessors", with_code), find)


def resolve_file(
    metadata: ExportMetadata,
    name: str,
    access: HubAccess,
    *,
    revision: str | None = None,
    places: Sequence[str] | None = None,
) -> ConfigFolder:
    """Return a folder with a file that only sentence_transformers reads: with all of these that are known, or itself.

    Args:
        metadata, access, revision, places: As of `resolve_configs`.
        name: The file, relative to the repo.

    Raises:
        HFHubIntegrationError: It cannot be had; the subclass says why.
    """

    def find(pin: _Pin) -> Path:
        known = [file for file in pin.files or () if is_sentence_transformers_file(file)]
        return _snapshot(metadata, pin.commit, known if name in known else [name], access, places=places)

    return _remembered(metadata, within_order(access, places), revision, ("file", name), find)


def _remembered(
    metadata: ExportMetadata,
    access: HubAccess,
    revision: str | None,
    what: tuple[Any, ...],
    find: Callable[[_Pin], Path],
) -> ConfigFolder:
    """Return a commit's folder from memory, or find it. A token that may not see the files never finds them."""
    with _in_words_of(metadata):
        pin = _pin(metadata, access, revision)
        commit = (metadata.hub_provider or plugins.HUGGING_FACE, str(metadata.hub_id), pin.commit)
        cache = None if access.cache_dir is None else os.fspath(access.cache_dir)
        # Two files of one commit may name different files of it: what one needs says nothing of what the other does.
        key = (*commit, cache, pin.files, *what)
        folder = _folders.get_or_make(key, lambda: find(pin), anew=access.force_download, valid=Path.is_dir)
    return ConfigFolder(folder, commit)


@contextmanager
def _in_words_of(metadata: ExportMetadata) -> Iterator[None]:
    """Add to the Hub's answer what the file knows: the Hub says the same of private and of missing models."""
    try:
        yield
    except (RevisionNotFoundError, RepoDisabledError):
        raise
    except ModelNotFoundError as error:
        if metadata.private:
            token = "HF_TOKEN" if metadata.hub_provider is None else f"the token for {metadata.hub_provider}"
            known = f"It was private when this file was exported: set {token} to one that may read it."
        elif metadata.private is False:
            known = "It was public when this file was exported: it has been removed or made private since."
        else:
            raise
        raise ModelNotFoundError(f"{error} {known}") from error


def _readable(files: Sequence[str]) -> tuple[str, ...]:
    """Leave out what only sentence_transformers reads: it asks for that itself."""
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
    """Ask the Hub which config files a commit has."""
    info = plugins.hub(metadata.hub_provider).info(str(metadata.hub_id), commit, access)
    return _configs_among(info.files, metadata)


def _recorded(metadata: ExportMetadata) -> tuple[str, ...] | None:
    """Return the config files that a file lists. It may list anything: only what loaders read is fetched."""
    if metadata.config_files is None:
        return None
    found = _configs_among(metadata.config_files, metadata)
    if others := set(metadata.config_files) - set(found):
        logger.info("Not fetched for %s, because no loader reads it: %s", metadata.source, sorted(others))
    return found


def _configs_among(files: Sequence[str], metadata: ExportMetadata) -> tuple[str, ...]:
    return _allowed(tuple(files), metadata.export_library or "transformers")


@functools.lru_cache(_LISTS)  # every load of a file asks again
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
