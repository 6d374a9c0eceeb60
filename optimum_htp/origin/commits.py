"""Which commit a revision is right now: the Hub says so, and where it cannot be reached the cache."""

from __future__ import annotations

from dataclasses import dataclass, field

from optimum_htp.errors import HubUnreachableError
from optimum_htp.hubs.base import Hub, HubAccess, RepoInfo

__all__ = ["FoundCommit", "find_commit"]


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
