"""What a user may type for a model of a Hub: `org/name@revision`, and before it perhaps the Hub, `ms://org/name@revision`."""

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
_PREFIX: Final = re.compile(r"[a-z0-9][a-z0-9_-]+://")  # one letter is a drive of Windows


@dataclass(frozen=True)
class Reference:
    """A model of a Hub, as it was asked for; nobody has looked whether there is one.

    Attributes:
        hub: The Hub.
        repo_id: Repo id, as that Hub allows it.
        revision: Branch, tag, commit or `refs/pr/N`; None for the Hub's main branch.
    """

    hub: Hub
    repo_id: str
    revision: str | None


def has_prefix(text: str) -> bool:
    """Whether a text names its Hub, and so is no path."""
    return _PREFIX.match(text) is not None


def names_a_hub(text: str) -> bool:
    """Whether a text names a Hub that some plugin provides: `s3://bucket/model` does not."""
    if not has_prefix(text):
        return False
    try:
        plugins.hub_of_prefix(text.partition("://")[0])
    except UnknownHubError:
        return False
    return True


def parse_reference(text: str, revision: str | None = None) -> Reference:
    """Split a reference, and hold it against a revision that was given besides.

    Raises:
        InvalidModelReferenceError: It is none, or asks for another revision.
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
            f"{text!r} asks for revision {match['revision']!r} and the revision option for {revision!r}: "
            "give one of them."
        )
    return Reference(hub, match["repo_id"], match["revision"] or revision)


def _no_reference(text: str, why: str) -> InvalidModelReferenceError:
    return InvalidModelReferenceError(
        f"{text!r} is neither an existing path nor a model of the Hub ('name' or 'organization/name', either with "
        f"'@revision', and of another Hub with its name before it, as in 'ms://organization/name'): {why}"
    )


@dataclass(frozen=True)
class FoundCommit:
    """A commit of a repo.

    Attributes:
        commit: In full.
        info: What the Hub says of it; None where it was not reached.
        reason: Why it was not.
    """

    commit: str
    info: RepoInfo | None = None
    reason: str | None = field(default=None, compare=False)


def find_commit(hub: Hub, repo_id: str, revision: str | None, access: HubAccess) -> FoundCommit:
    """Return the commit that a revision is, of the main branch for None.

    Raises:
        ModelNotFoundError: There is no such repo, or no such revision.
        HubUnreachableError: The Hub could not be asked, and the cache does not know.
    """
    try:
        info = hub.info(repo_id, revision, access)
    except HubUnreachableError as error:
        commit = hub.cached_commit(repo_id, revision, access)
        if commit is None:
            raise
        return FoundCommit(commit, reason=str(error))
    return FoundCommit(info.commit, info)
