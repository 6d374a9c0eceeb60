"""Writes files to the Hugging Face Hub in one commit, or writes nothing.

The repo is read first, so the commit has a known parent, and an existing repo is not created again. Files of a
rejected commit are in no repo.
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
from optimum_htp.hubs.deadline import Deadline, waiting_out
from optimum_htp.hubs.error_translation import translated_errors
from optimum_htp.hubs.http import http_errors
from optimum_htp.hubs.huggingface.hub import HuggingFaceHub
from optimum_htp.hubs.huggingface.transfers import HINT, Transfers, is_xet_in_use, xet_failure
from optimum_htp.hubs.unreachable import causes
from optimum_htp.masking import get_logger
from optimum_htp.version import __version__

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi

__all__ = ["CARD", "PushResult", "Target", "commit_files", "look_at"]

logger = get_logger(__name__)

CARD: Final = "README.md"
_DENIED: Final = (401, 403)
_EXISTS: Final = 409
_ATTRIBUTES: Final = ".gitattributes"  # the Hub adds it to each new repo
_MOVED: Final = (409, 412)
_BAD_REQUEST: Final = 400


@dataclass(frozen=True)
class Target:
    """The present state of a repo to write to: the commit of its main branch, its model card, and its files.

    The commit is None if the repo does not exist or is not visible.
    """

    repo_id: str
    commit: str | None = None
    card: str | None = None
    files: frozenset[str] = frozenset()


@dataclass(frozen=True)
class PushResult:
    """Result of a push: the full commit, its page or that of the pull request, and the names of the files in the repo.

    `changed` is False if the repo already had these files, so that no commit was created.
    """

    repo_id: str
    commit: str
    url: str
    files: tuple[str, ...]
    changed: bool = True


def look_at(repo_id: str, token: str | bool | None) -> Target:
    """Return the present state of a repo; without an owner, of a repo of the user."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise OfflineError(f"Nothing was pushed to {repo_id}, because HF_HUB_OFFLINE is set. Unset it.")
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
        target = Target(info.id, info.sha, files=names)  # its present name, if it was renamed
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
    token: str | bool | None,
) -> PushResult:
    """Write files, by their name in the repo, in one commit; create the repo if it does not exist.

    If the repo has changed since `look_at`, nothing is written. `private` concerns a new repo; None is the default of
    its owner.
    """
    from huggingface_hub import CommitOperationAdd

    api = _api(token)
    with _translated(target.repo_id), _created(api, target, private):
        # Sizes and digests are computed here. The store rejects a file that changes later.
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
    url = done.pr_url or str(done.commit_url)
    return PushResult(target.repo_id, done.oid, url, tuple(sorted(files)), changed=done.oid != target.commit)


def _transferred(repo_id: str, commit: Callable[[], CommitInfo]) -> CommitInfo:
    """Create a commit: wait as long as the Hub requires, and stop if Xet makes no progress."""

    def uploaded() -> CommitInfo:
        with _translated(repo_id):
            return commit()

    transfers = Transfers()
    if is_xet_in_use():
        transfers.by_xet()
    try:
        (done,) = transfers.run([lambda: waiting_out(uploaded, Deadline())], 1)
    except TimeoutError as error:
        if isinstance(error, OptimumHTPError):
            raise
        raise HubTimeoutError(f"The upload to {repo_id} through Xet was stopped: {transfers.stalled()}.") from error
    return done


@contextmanager
def _created(api: HfApi, target: Target, private: bool | None) -> Iterator[None]:
    """Create a repo if it does not exist, and delete it again if the commit fails."""
    is_new = target.commit is None and waiting_out(partial(_create, api, target.repo_id, private), Deadline())
    try:
        yield
    except BaseException:  # Ctrl-C too: leave no empty repo behind
        if is_new:
            _delete_new(api, target.repo_id)
        raise


def _create(api: HfApi, repo_id: str, private: bool | None) -> bool:
    """Create a repo; return whether it is new."""
    from huggingface_hub.errors import HfHubHTTPError

    with _translated(repo_id):
        try:
            api.create_repo(repo_id, private=private)
        except HfHubHTTPError as error:
            if _answer(error)[0] != _EXISTS:  # it exists, but is not visible, or was created meanwhile
                raise
            return False
    return True


def _delete_new(api: HfApi, repo_id: str) -> None:
    """Delete a new repo, unless another user has added a file."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        if not set(api.list_repo_files(repo_id)) - {_ATTRIBUTES}:
            api.delete_repo(repo_id)
            return
    except (HfHubHTTPError, OSError) as error:
        logger.debug("%s cannot be deleted", repo_id, exc_info=error)
    logger.warning("%s was created, and remains without the files. Delete it, or push again.", repo_id)


def _api(token: str | bool | None) -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(token=token, library_name="optimum-htp", library_version=__version__)


@contextmanager
def _translated(repo_id: str) -> Iterator[None]:
    """Convert exceptions of huggingface_hub during writes to errors of this package."""
    with translated_errors(repo_id, None):
        try:
            yield
        except OptimumHTPError:  # already converted
            raise
        except Exception as error:
            refused = _refusal(error, repo_id)
            if refused is not None:
                raise refused from error
            if type(error) is RuntimeError and error.__cause__ is not None:
                raise error.__cause__ from None  # huggingface_hub only added the file name
            failure = xet_failure(error)
            if failure is not None and not isinstance(error, http_errors().transport):
                through, hint = ("through Xet ", HINT) if is_xet_in_use() else ("", "Try again")
                message = f"Nothing was pushed to {repo_id}: the upload {through}failed: {failure[0]}. {hint}."
                raise (RateLimitedError if failure[1] else PushError)(message) from error
            raise


def _refusal(error: Exception, repo_id: str) -> OptimumHTPError | None:
    """Return the error for a response that rejects the push, or None."""
    from huggingface_hub import constants

    status, reason = _answer(error)
    if status in _DENIED:
        return AccessDeniedError(
            f"Nothing was pushed to {repo_id}: the token has no write access (status {status}"
            f"{f', {reason}' if reason else ''}). Create one at {constants.ENDPOINT}/settings/tokens, and set "
            "HF_TOKEN or run `hf auth login`; or open a pull request with --create-pr."
        )
    if status in _MOVED:
        return PushError(f"Nothing was pushed to {repo_id}: the repo has changed during the push. Push again.")
    if status == _BAD_REQUEST:
        return PushError(f"Nothing was pushed to {repo_id}: the Hub rejects the files ({reason}).")
    return None


def _answer(error: BaseException) -> tuple[int | None, str]:
    """Return status and reason of the response of the Hub; None without a response."""
    from huggingface_hub.errors import BadRequestError

    for cause in causes(error):
        response = getattr(cause, "response", None)
        if response is not None:
            message = str(error) if isinstance(cause, BadRequestError) and cause is not error else ""
            reason = message or response.headers.get("X-Error-Message") or ""
            return int(response.status_code), " ".join(reason.split())
    return None, ""
