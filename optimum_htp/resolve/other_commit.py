"""ONNX files in a repo that were exported from an earlier commit of the same repo.

The configs in the root of the repo belong to the model at another commit, so the record of the file decides. Files in
the subfolder of the ONNX file were put there for it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Final

from optimum_htp import plugins
from optimum_htp.errors import HFHubIntegrationError, HubUnreachableError, RevisionNotFoundError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.hubs.huggingface.cache import RepoCache, is_known_missing
from optimum_htp.libraries.names import CONFIG
from optimum_htp.masking import get_logger
from optimum_htp.metadata import ExportMetadata
from optimum_htp.resolve.adjacent import AdjacentSearch, lies_in
from optimum_htp.resolve.commit_files import ConfigFolder

__all__ = ["configs_of_other_commit", "other_snapshot"]

logger = get_logger(__name__)

_warned: Final[set[tuple[str | None, ...]]] = set()


def other_snapshot(path: Path, record: ExportMetadata | None, access: HubAccess) -> Path | None:
    """Return the folder of the commit that a file was downloaded at, if its record has another commit of that repo.

    Args:
        path: The file, in the cache of a Hub or elsewhere.
        record: Its record.
        access: Options for Hub requests.
    """
    if record is None or record.hub_id is None or "snapshots" not in path.absolute().parts:
        return None
    provider = record.hub_provider or plugins.HUGGING_FACE
    hub = next((hub for hub in plugins.hubs() if hub.name == provider), None)
    named = hub.cached_repo(path.absolute()) if hub is not None else None
    if named is None or named[1].startswith(_commit_of(record)):
        return None
    repo_id, commit = named
    folder = next((folder for folder in path.absolute().parents if folder.name == commit), None)
    if folder is None or _are_one_repo(repo_id, record.hub_id.replace("--", "/"), provider):
        return folder
    return folder if provider == plugins.HUGGING_FACE and _was_renamed(repo_id, folder, record, access) else None


def configs_of_other_commit(folder: Path, asked: AdjacentSearch) -> ConfigFolder | None:
    """Return the folder of another commit if it has the needed files, which are not available at the record's commit.

    A warning is logged once.
    """
    record = asked.record
    if record is None or not lies_in(folder, asked, None, alone=True, needed=False):
        return None
    own, other = _commit_of(record), folder.name
    if (record.hub_id, own, other) not in _warned:
        _warned.add((record.hub_id, own, other))
        logger.warning(
            "%s was exported from %s at %s, whose configs are not available. The configs at %s are used: if the "
            "model has changed, "
            "the results are wrong. Load it once with a connection, or pass "
            'config=AutoConfig.from_pretrained("%s", revision="%s").',
            asked.path or "The ONNX file",
            record.hub_id,
            own,
            other,
            record.hub_id,
            own,
        )
    return ConfigFolder(folder, (record.hub_provider or plugins.HUGGING_FACE, str(record.hub_id), other))


def _are_one_repo(one: str, other: str, provider: str) -> bool:
    """Whether two ids mean one repo: an old id without an organization leads to the present repo."""
    one, other = one.casefold(), other.casefold()
    if provider == plugins.HUGGING_FACE and ("/" in one) != ("/" in other):
        return one.rpartition("/")[2] == other.rpartition("/")[2]
    return one == other


def _was_renamed(repo_id: str, folder: Path, record: ExportMetadata, access: HubAccess) -> bool:
    """Whether a repo is the renamed repo of a record with an older id, so that it has the record's commit.

    It is asked for a file of that commit, once; the cache keeps the result. Without a connection, the embedded files
    count. A repo of another author who converted the model does not have the commit.

    Args:
        repo_id: The repo.
        folder: Its files at the commit that the ONNX file was downloaded at.
        record: The record of the file.
        access: Options for Hub requests.
    """
    commit, name, cache = record.hub_sha, next(iter(record.config_files or ()), CONFIG), folder.parents[2]
    if commit is None or is_known_missing(repo_id, name, cache, commit):
        return False
    own = folder.parent / commit / name
    if own.is_file() or not _may_differ(folder, record):
        return own.is_file()
    access = dataclasses.replace(access, cache_dir=cache, force_download=False)
    try:
        plugins.hub(plugins.HUGGING_FACE).snapshot(repo_id, commit, [name], access)
    except RevisionNotFoundError:
        RepoCache(repo_id, access).note_missing(commit, name)
    except HubUnreachableError:
        return bool(record.embedded_files)
    except HFHubIntegrationError as error:
        logger.debug("It cannot be checked whether %s is %s: %s", repo_id, record.hub_id, error)
    return own.is_file()


def _may_differ(folder: Path, record: ExportMetadata) -> bool:
    """Whether a file in a folder differs from the embedded file, or cannot be compared."""
    if not record.embedded_files:
        return (folder / CONFIG).is_file()
    for file in record.embedded_files:
        there = folder / file.name
        if there.is_file() and (
            there.stat().st_size != file.size or hashlib.sha256(there.read_bytes()).hexdigest() != file.sha256
        ):
            return True
    return False


def _commit_of(record: ExportMetadata) -> str:
    return record.hub_sha or record.hub_revision or ""
