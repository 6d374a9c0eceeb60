"""Writing to the Hugging Face Hub: files become one commit, or nothing does.

A repo is looked at first, so that the commit is made on what was seen there, and a repo that exists is never asked to
be created. What was uploaded before a commit is refused is in no repo.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from optimum_htp.errors import (
    AccessDeniedError,
    HubTimeoutError,
    OfflineError,
    OptimumHTPError,
    PushError,
    RateLimitedError,
)
from optimum_htp.hubs.base import HubAccess
from optimum_htp.hubs.deadline import Deadline
from optimum_htp.hubs.error_translation import translated_errors
from optimum_htp.hubs.http import http_errors
from optimum_htp.hubs.huggingface.hub import HuggingFaceHub
from optimum_htp.hubs.huggingface.transfers import HINT, Transfers, is_xet_in_use, xet_failure
from optimum_htp.hubs.limits import waiting_out
from optimum_htp.hubs.unreachable import causes
from optimum_htp.masking import get_logger
from optimum_htp.version import __version__

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi

__all__ = ["CARD", "Commit", "Target", "commit_files", "look_at"]

logger = get_logger(__name__)

CARD: Final = "README.md"
_DENIED: Final = (401, 403)
_EXISTS: Final = 409
_ATTRIBUTES: Final = ".gitattributes"  # what the Hub puts into each new repo
_MOVED: Final = (409, 412)
_BAD_REQUEST: Final = 400


@dataclass(frozen=True)
class Target:
    """A repo that is to be written to, as it is now.

    Attributes:
        repo_id: With the user or organization.
        commit: Of its main branch; None where there is no such repo, or none that may be seen.
        card: Its model card, None where it has none.
        files: Names of its files.
    """

    repo_id: str
    commit: str | None = None
    card: str | None = None
    files: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Commit:
    """A commit that was made.

    Attributes:
        repo_id: Repo.
        commit: Full commit.
        url: Its page.
        pr_url: Page of the pull request, where it was one.
        changed: Whether a commit was made: none is where the repo has all files already.
    """

    repo_id: str
    commit: str
    url: str
    pr_url: str | None = None
    changed: bool = True


def look_at(repo_id: str, token: str | bool | None = None) -> Target:
    """Return what a repo is now.

    Args:
        repo_id: Repo; without an owner it is the user's.
        token: Bearer token; None for the environment's or the saved login's.

    Raises:
        HFHubIntegrationError: The Hub cannot be asked, or does not know who asks; the subclass says why.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise OfflineError(f"Nothing was pushed to {repo_id}, because HF_HUB_OFFLINE is set. Unset it for this.")
    return waiting_out(partial(_seen, repo_id, token), Deadline())


def _seen(repo_id: str, token: str | bool | None) -> Target:
    from huggingface_hub.errors import RepositoryNotFoundError
    from huggingface_hub.utils import validate_repo_id

    api = _api(token)
    with translated_errors(repo_id, None):
        validate_repo_id(repo_id)
        if "/" not in repo_id:
            repo_id = f"{api.whoami()['name']}/{repo_id}"
        try:
            info = api.repo_info(repo_id)
        except RepositoryNotFoundError:
            return Target(repo_id)
        names = frozenset(file.rfilename for file in info.siblings or ())
        target = Target(info.id, info.sha, files=names)  # under the name that it has now
        if CARD not in names:
            return target
        folder = HuggingFaceHub().snapshot(info.id, str(info.sha), [CARD], HubAccess(token=token))
        return replace(target, card=(folder / CARD).read_text(encoding="utf-8"))


def commit_files(
    target: Target,
    files: Mapping[str, Path | bytes],
    *,
    message: str,
    private: bool | None = None,
    create_pr: bool = False,
    token: str | bool | None = None,
) -> Commit:
    """Put files into a repo, all in one commit; a repo that is not there is created.

    Args:
        target: The repo, as it was seen. Where it has changed since, nothing is written.
        files: What to write, by name in the repo.
        message: First line of the commit's message.
        private: Whether a new repo is private; None for what is usual there.
        create_pr: Open a pull request instead of writing to the main branch.
        token: Bearer token.

    Raises:
        AccessDeniedError: The token may not write there.
        PushError: The Hub refuses the files, or the repo has changed meanwhile. Nothing was written.
        HFHubIntegrationError: The Hub cannot be asked; the subclass says why.
    """
    from huggingface_hub import CommitOperationAdd

    api = _api(token)
    with _told(target.repo_id), _created(api, target, private):
        # The sizes and digests of the files are taken here, and the store refuses what is otherwise by then.
        operations = [
            CommitOperationAdd(name, file if isinstance(file, bytes) else str(file)) for name, file in files.items()
        ]
        commit = partial(
            api.create_commit,
            target.repo_id,
            operations,
            commit_message=message,
            create_pr=create_pr,
            parent_commit=target.commit,
        )
        done = _transferred(target.repo_id, commit)
    return Commit(target.repo_id, done.oid, str(done.commit_url), done.pr_url, done.oid != target.commit)


def _transferred(repo_id: str, commit: Callable[[], CommitInfo]) -> CommitInfo:
    """Make a commit; after the time that the Hub asks to wait, and not for longer than Xet makes progress."""

    def uploaded() -> CommitInfo:
        with _told(repo_id):
            return commit()

    transfers = Transfers()
    if is_xet_in_use():
        transfers.by_xet()
    try:
        (done,) = transfers.run([lambda: waiting_out(uploaded, Deadline())], 1)
    except TimeoutError as error:
        if isinstance(error, OptimumHTPError):
            raise
        raise HubTimeoutError(f"The upload to {repo_id} through Xet was given up: {transfers.stalled()}.") from error
    return done


@contextmanager
def _created(api: HfApi, target: Target, private: bool | None) -> Iterator[None]:
    """Create a repo where there is none, and take it back where what was to be in it is refused."""
    ours = target.commit is None and waiting_out(partial(_create, api, target.repo_id, private), Deadline())
    try:
        yield
    except BaseException:  # Ctrl-C too: an empty repo of ours is not left behind
        if ours:
            _take_back(api, target.repo_id)
        raise


def _create(api: HfApi, repo_id: str, private: bool | None) -> bool:
    """Create a repo; return whether it is new."""
    from huggingface_hub.errors import HfHubHTTPError

    with _told(repo_id):
        try:
            api.create_repo(repo_id, private=private)
        except HfHubHTTPError as error:
            if _answer(error)[0] != _EXISTS:  # one that this token may not see, or somebody was faster
                raise
            return False
    return True


def _take_back(api: HfApi, repo_id: str) -> None:
    """Delete a repo that was created just now, unless somebody has put a file into it."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        if not set(api.list_repo_files(repo_id)) - {_ATTRIBUTES}:
            api.delete_repo(repo_id)
            return
    except (HfHubHTTPError, OSError) as error:
        logger.debug("%s cannot be deleted", repo_id, exc_info=error)
    logger.warning("%s was created and is left there without the files. Delete it, or push again.", repo_id)


def _api(token: str | bool | None) -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(token=token, library_name="optimum-htp", library_version=__version__)


@contextmanager
def _told(repo_id: str) -> Iterator[None]:
    """Turn what huggingface_hub raises while it writes into this package's errors."""
    with translated_errors(repo_id, None):
        try:
            yield
        except OptimumHTPError:  # it has been put into words
            raise
        except Exception as error:
            refused = _refusal(error, repo_id)
            if refused is not None:
                raise refused from error
            if type(error) is RuntimeError and error.__cause__ is not None:
                raise error.__cause__ from None  # huggingface_hub has put the file's name around it
            failure = xet_failure(error)
            if failure is not None and not isinstance(error, http_errors().transport):
                through, hint = ("through Xet ", HINT) if is_xet_in_use() else ("", "Try again")
                message = f"Nothing was pushed to {repo_id}: the upload {through}failed: {failure[0]}. {hint}."
                raise (RateLimitedError if failure[1] else PushError)(message) from error
            raise


def _refusal(error: Exception, repo_id: str) -> OptimumHTPError | None:
    """Return what to say where the Hub has answered, and refuses."""
    from huggingface_hub import constants

    status, reason = _answer(error)
    if status in _DENIED:
        return AccessDeniedError(
            f"Nothing was pushed to {repo_id}: this token may not write there (the Hub answered {status}"
            f"{f', {reason}' if reason else ''}). Make one that may at {constants.ENDPOINT}/settings/tokens, and set "
            "HF_TOKEN to it or run `hf auth login`; or propose the files with --create-pr."
        )
    if status in _MOVED:
        return PushError(f"Nothing was pushed to {repo_id}: somebody has written there meanwhile. Push again.")
    if status == _BAD_REQUEST:
        return PushError(f"Nothing was pushed to {repo_id}: the Hub refuses it ({reason}).")
    return None


def _answer(error: BaseException) -> tuple[int | None, str]:
    """Return the status that the Hub answered, and what it says of it; None where it was not asked or did not."""
    from huggingface_hub.errors import BadRequestError

    for cause in causes(error):
        response = getattr(cause, "response", None)
        if response is not None:
            told = str(error) if isinstance(cause, BadRequestError) and cause is not error else ""
            reason = told or response.headers.get("X-Error-Message") or ""
            return int(response.status_code), " ".join(reason.split())
    return None, ""
