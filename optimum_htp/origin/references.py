"""References to Hub models as users type them: `org/name@revision`, optionally with the Hub, `ms://org/name@revision`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from optimum_htp import plugins
from optimum_htp.errors import HubUnreachableError, InvalidModelReferenceError, UnknownHubError
from optimum_htp.hubs.base import Hub, HubAccess, RepoInfo

__all__ = ["FoundCommit", "Reference", "find_commit", "has_prefix", "names_a_hub", "parse_reference"]

_REFERENCE: Final = re.compile(
    r"(?:(?P<prefix>[a-z0-9][a-z0-9_-]+)://(?:models/)?)?(?P<repo_id>[^@]+)(?:@(?P<revision>.+))?", re.DOTALL
)
_PREFIX: Final = re.compile(r"[a-z0-9][a-z0-9_-]+://")  # A single letter is a drive on Windows.


@dataclass(frozen=True)
class Reference:
    """A reference to a Hub model. Its existence is not checked. Without a revision, it is for the default branch."""

    hub: Hub
    repo_id: str
    revision: str | None


def has_prefix(text: str) -> bool:
    """Whether a text names its Hub, so it is not a path."""
    return _PREFIX.match(text) is not None


def names_a_hub(text: str) -> bool:
    """Whether a text names a Hub of an installed plugin. `s3://bucket/model` does not."""
    if not has_prefix(text):
        return False
    try:
        plugins.hub_of_prefix(text.partition("://")[0])
    except UnknownHubError:
        return False
    return True


def parse_reference(text: str, revision: str | None = None) -> Reference:
    """Parse a reference, and compare its revision with a separately given one.

    Raises:
        InvalidModelReferenceError: It is not a reference, or the revisions differ.
        UnknownHubError: No installed plugin provides its Hub.
    """
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise _no_reference(text, "it is empty, or begins or ends with '@'")
    hub = plugins.hub() if match["prefix"] is None else plugins.hub_of_prefix(match["prefix"])
    try:
        hub.check(match["repo_id"])
    except InvalidModelReferenceError as error:
        raise _no_reference(text, str(error)) from error
    if revision is not None and match["revision"] not in (None, revision):
        raise InvalidModelReferenceError(
            f"{text!r} contains revision {match['revision']!r}, but the revision option is {revision!r}. Give only "
            "one of them."
        )
    return Reference(hub, match["repo_id"], match["revision"] or revision)


def _no_reference(text: str, why: str) -> InvalidModelReferenceError:
    return InvalidModelReferenceError(
        f"{text!r} is neither an existing path nor a repo id ('name' or 'organization/name', either with '@revision'; "
        f"for another Hub with its name before it, as in 'ms://organization/name'): {why}"
    )


@dataclass(frozen=True)
class FoundCommit:
    """A commit of a repo: with the Hub's information about it, or the reason why the Hub was unreachable."""

    commit: str
    info: RepoInfo | None = None
    reason: str | None = field(default=None, compare=False)


def find_commit(hub: Hub, repo_id: str, revision: str | None, access: HubAccess) -> FoundCommit:
    """Return the commit of a revision, of the default branch for None.

    Raises:
        ModelNotFoundError: The repo or the revision does not exist.
        HubUnreachableError: The Hub is unreachable, and the cache does not contain the revision.
    """
    try:
        info = hub.info(repo_id, revision, access)
    except HubUnreachableError as error:
        commit = hub.cached_commit(repo_id, revision, access)
        if commit is None:
            raise
        return FoundCommit(commit, reason=str(error))
    return FoundCommit(info.commit, info)
