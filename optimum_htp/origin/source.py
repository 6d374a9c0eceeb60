"""The source of a model: a Hub with repo id and commit, or this machine.

`locate` determines the source of a name that a user typed. It raises an exception if this is not possible; it never
guesses.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from optimum_htp import plugins
from optimum_htp.errors import (
    HubUnreachableError,
    InvalidModelReferenceError,
    ModelNotFoundError,
    RateLimitedError,
    UnknownHubError,
)
from optimum_htp.hubs.base import Hub, HubAccess, RepoInfo
from optimum_htp.masking import get_logger
from optimum_htp.origin import mirrors
from optimum_htp.origin.evidence import is_cached_folder, loaded_files, unproven
from optimum_htp.origin.references import Reference, find_commit, has_prefix, parse_reference

__all__ = [
    "HubSource",
    "LocalSource",
    "ask",
    "attribute_of",
    "cached_snapshot",
    "expanded",
    "is_path",
    "locate",
    "locate_loaded_model",
]

logger = get_logger(__name__)

_PATH_PREFIXES: Final = ("./", "../", "/", "~", ".\\", "..\\", "\\\\")
_WINDOWS_DRIVE: Final = re.compile(r"[A-Za-z]:[\\/]")


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """A model on a Hub.

    Attributes:
        repo_id: The repo id in the Hub's spelling.
        commit: Full commit, resolved once. All files are taken from it.
        ref: The revision that the user named, if any.
        info: The Hub's information about the commit; None if the Hub was unreachable and the cache is the proof.
        reason: Why `info` is None.
        folder: The snapshot in the cache, if the user named its path. Its files are those of the commit.
        provider: Name of the Hub.
        mirrored: The list of its files from a mirror, if neither the Hub nor the cache has the commit.
    """

    repo_id: str
    commit: str
    ref: str | None = None
    info: RepoInfo | None = None
    reason: str | None = field(default=None, compare=False)
    folder: Path | None = None
    provider: str = plugins.HUGGING_FACE
    mirrored: frozenset[str] | None = None

    @property
    def hub(self) -> Hub:
        """The Hub of the model. No other Hub is used for it."""
        return plugins.hub(self.provider)

    @property
    def reference(self) -> str:
        """The reference to type: the repo id, with the name of the Hub if it is not Hugging Face's."""
        return self.repo_id if self.provider == plugins.HUGGING_FACE else f"{self.provider}://{self.repo_id}"


@dataclass(frozen=True)
class LocalSource:
    """A model without a Hub: a folder, or a model in memory without a path."""

    path: Path | None


def locate(name: str | os.PathLike[str], revision: str | None, access: HubAccess) -> HubSource | LocalSource:
    """Determine the source of a model name or path.

    The name is a path, or `name`, `org/name`, either with `@revision`; `ms://org/name` for another Hub. The revision
    is a branch, tag, commit or `refs/pr/N`.

    Raises:
        InvalidModelReferenceError: Neither a path nor a repo id, or two different revisions.
        ModelNotFoundError: Neither a path nor on the Hub.
        HubUnreachableError: Not a path, and neither the Hub nor the cache can confirm the model.
        UnknownHubError: No installed plugin provides the Hub.
    """
    text = os.fspath(name)
    if is_path(text):
        return _locate_path(text, revision, access)
    return ask(parse_reference(text, revision), access)


def locate_loaded_model(model: Any, access: HubAccess) -> HubSource | LocalSource:
    """Determine where a model in memory was loaded from, by its config's `_name_or_path` and `_commit_hash`.

    Raises:
        HubUnreachableError: The config names a Hub model that neither the Hub nor the cache can confirm.
    """
    config = getattr(model, "config", None)
    name = attribute_of(config, "_name_or_path") or getattr(model, "name_or_path", None)
    if not isinstance(name, str) or not name:
        return LocalSource(None)
    try:
        return locate(name, None if is_path(name) else attribute_of(config, "_commit_hash"), access)
    except (InvalidModelReferenceError, ModelNotFoundError, UnknownHubError):
        return LocalSource(None)  # A name that the user chose, or a folder that no longer exists.


def cached_snapshot(path: Path, access: HubAccess) -> tuple[Hub, str, str] | None:
    """Return Hub, repo id and commit of a folder that is a snapshot in a Hub's cache; None for any other folder.

    The folder must be in the cache that `access` names, and each file that loaders read must match the commit. A
    warning gives the reason if a folder with the name of a snapshot is used as a local model.
    """
    for hub in plugins.hubs():
        named = hub.cached_repo(path.absolute()) or hub.cached_repo(path.resolve())
        if named is None:
            continue
        if (fault := _snapshot_fault(hub, *named, path, access)) is None:
            return hub, *named
        logger.warning("%s is used as a local model, not as %s at %s: %s.", path, *named, fault)
    return None


def _snapshot_fault(hub: Hub, repo_id: str, commit: str, path: Path, access: HubAccess) -> str | None:
    if not is_cached_folder(hub, repo_id, commit, path, access):
        return "it is not the folder of this commit in the configured cache"
    found = unproven(hub, repo_id, commit, path, loaded_files(path), access, None)
    return next((f"{name} differs or cannot be checked: {reason}" for name, reason in found.items()), None)


def is_path(text: str) -> bool:
    """Whether a name is the path of a file or folder, not a reference to a Hub."""
    if has_prefix(text):
        return False
    return text.startswith(_PATH_PREFIXES) or bool(_WINDOWS_DRIVE.match(text)) or _exists(text)


def _exists(text: str) -> bool:
    try:
        return text != "" and Path(text).exists()
    except (OSError, ValueError):  # Too long for a path, or contains a null character.
        return False


def _locate_path(text: str, revision: str | None, access: HubAccess) -> HubSource | LocalSource:
    path = expanded(text)
    if not _exists(str(path)):
        raise ModelNotFoundError(f"The folder {text} does not exist. Check the path, or name a model on the Hub.")
    if revision is not None:
        raise InvalidModelReferenceError(
            f"{text} is a local folder, and folders have no revisions. Leave out the revision {revision!r}."
        )
    if cached := cached_snapshot(path, access):
        hub, repo_id, commit = cached
        why = "the model was given as a folder in the cache"
        return HubSource(repo_id=repo_id, commit=commit, folder=path, reason=why, provider=hub.name)
    return LocalSource(path)


def expanded(text: str) -> Path:
    """Return a path with `~` replaced by the home folder."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # The user does not exist.
        return Path(text)


def ask(reference: Reference, access: HubAccess) -> HubSource:
    """Query the Hub, or the cache if the Hub is unreachable."""
    hub, repo_id, revision = reference.hub, reference.repo_id, reference.revision
    try:
        found = find_commit(hub, repo_id, revision, access)
    except HubUnreachableError as error:
        if (mirrored := mirrors.listed(hub.name, repo_id, revision, access)) is not None:
            return HubSource(
                repo_id=repo_id,
                commit=str(revision),
                ref=revision,
                reason=str(error),
                provider=hub.name,
                mirrored=mirrored,
            )
        message = f"There is no folder {repo_id}, and it cannot be checked whether it is a model on the Hub. {error}"
        if isinstance(error, RateLimitedError):
            raise RateLimitedError(message, error.retry_after) from error
        raise type(error)(message) from error
    except ModelNotFoundError as error:
        raise type(error)(f"{repo_id} is neither a local folder nor available on the Hub: {error}") from error
    return HubSource(
        repo_id=repo_id if found.info is None else found.info.repo_id,
        commit=found.commit,
        ref=revision,
        info=found.info,
        reason=found.reason,
        provider=hub.name,
    )


def attribute_of(config: Any, name: str) -> Any:
    """Read an attribute of a transformers config or an item of a diffusers config."""
    value = getattr(config, name, None)
    return config.get(name) if value is None and isinstance(config, dict) else value
