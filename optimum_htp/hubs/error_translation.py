"""Translates exceptions of huggingface_hub to exceptions of this package, with the model and the next step.

The headers of a Hub's response contain the reason of a rejection. huggingface_hub hides causes: its
`LocalEntryNotFoundError` may mean that a Hub rejected the request, and a failed forced download is a `ValueError`. So
the whole chain of causes is examined.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from json import JSONDecodeError
from typing import Final
from urllib.parse import urlsplit

from optimum_htp.errors import (
    AccessDeniedError,
    DamagedDownloadError,
    DownloadError,
    GatedModelError,
    HubServerError,
    HubTimeoutError,
    HubUnreachableError,
    InvalidModelReferenceError,
    ModelNotFoundError,
    OfflineError,
    OptimumHTPError,
    RateLimitedError,
    RepoDisabledError,
    RevisionNotFoundError,
)
from optimum_htp.hubs.base import repo_at
from optimum_htp.hubs.deadline import TIMEOUT_VARIABLE, retry_after
from optimum_htp.hubs.http import TOO_MANY_REQUESTS, Answer, CutOffError, http_errors
from optimum_htp.hubs.unreachable import asked_server, causes, failing_at_once, is_unreachable, proxy_of

__all__ = ["invalid_repo_id", "is_away", "refusal", "too_many_requests", "translated_errors"]

_REFUSED: Final = (401, 403)
_OF_THE_PROXY: Final = 407
_LOGIN: Final = "set HF_TOKEN or run `hf auth login`"
# huggingface_hub reports a file of the wrong size as a plain OSError with this text.
_INCONSISTENT: Final = "Consistency check failed"


@contextmanager
def translated_errors(repo_id: str, revision: str | None) -> Iterator[None]:
    """Convert errors of huggingface_hub, of HTTP and of the cache on disk to exceptions of this package."""
    from huggingface_hub import errors

    failures = _failures()
    try:
        with failing_at_once():
            yield
    except OptimumHTPError:
        raise
    except errors.HFValidationError as error:
        raise invalid_repo_id(repo_id) from error
    except failures as error:
        raise _explained(error, repo_id, revision) from error
    except OSError as error:
        if _INCONSISTENT in str(error):
            raise _damaged(repo_id, error) from error
        raise DownloadError(
            f"Files of {repo_id} cannot be downloaded: {error}. Check the cache folder (HF_HOME) and its disk, then "
            "try again."
        ) from error
    except ValueError as error:  # A response that is not JSON, or a forced download that failed.
        if isinstance(error, JSONDecodeError):
            raise _explained(error, repo_id, revision) from error
        if not isinstance(error.__cause__, failures):
            raise
        raise _explained(error.__cause__, repo_id, revision) from error


def invalid_repo_id(repo_id: str) -> InvalidModelReferenceError:
    """Return the exception for a text that is not a repo id of the Hugging Face Hub."""
    return InvalidModelReferenceError(
        f"{repo_id!r} is not a repo id. Use NAME or ORG/NAME, of letters, digits, '-', '_' and '.'."
    )


def is_away(error: Exception) -> bool:
    """Whether an exception of huggingface_hub means that the Hub is silent, or that connections are forbidden."""
    known = next((cause for cause in causes(error) if isinstance(cause, _failures())), None)
    return known is not None and isinstance(_explained(known, "", None), HubUnreachableError)


def _failures() -> tuple[type[BaseException], ...]:
    from huggingface_hub import errors

    return (
        errors.HfHubHTTPError,
        errors.LocalEntryNotFoundError,
        errors.OfflineModeIsEnabled,
        *http_errors().transport,
        CutOffError,
        RecursionError,
        TimeoutError,
    )


def _explained(error: BaseException, repo_id: str, revision: str | None) -> OptimumHTPError:
    from huggingface_hub import errors

    where = repo_at(repo_id, revision)
    chain = causes(error)

    def caused_by(*types: type[BaseException]) -> bool:
        return any(isinstance(cause, types) for cause in chain)

    if caused_by(errors.GatedRepoError):
        return _gated(repo_id, revision)
    if caused_by(errors.RevisionNotFoundError):
        return _no_revision(repo_id, revision)
    if caused_by(errors.RepositoryNotFoundError):
        return _no_model(repo_id)
    if caused_by(errors.DisabledRepoError):
        return _disabled(repo_id, revision)
    if caused_by(errors.OfflineModeIsEnabled):
        return OfflineError(
            f"{where} is not in the cache, and HF_HUB_OFFLINE forbids the download. Unset HF_HUB_OFFLINE once."
        )
    response = next((cause.response for cause in chain if getattr(cause, "response", None) is not None), None)  # type: ignore[attr-defined]
    if response is not None:
        return _refused(response.status_code, response.headers, where)
    if isinstance(error, errors.LocalEntryNotFoundError) and len(chain) == 1:
        return OfflineError(
            f"{where} is not in the cache, and local_files_only forbids the download. Run once without "
            "local_files_only."
        )
    if caused_by(RecursionError):
        return HubServerError(
            f"{_endpoint()} redirects in a loop for {where}. Check HF_ENDPOINT and any proxy in between."
        )
    if caused_by(JSONDecodeError):
        return HubServerError(
            f"The response of {_endpoint()} for {where} is not JSON. Check HF_ENDPOINT and any proxy in between."
        )
    if caused_by(*http_errors().timeouts, TimeoutError) and not is_unreachable(chain):
        return HubTimeoutError(
            f"{_named(_server(chain, where))} did not respond in time for {where}. Try again, or increase the limits "
            f"(in seconds): {TIMEOUT_VARIABLE} for the whole exchange, HF_HUB_ETAG_TIMEOUT and "
            "HF_HUB_DOWNLOAD_TIMEOUT for each response."
        )
    if caused_by(*http_errors().damage, CutOffError):
        return _damaged(where, chain[-1])
    return _unreachable(where, _server(chain, where), str(chain[-1]) or type(chain[-1]).__name__)


def _unreachable(where: str, server: str, reason: str) -> HubUnreachableError:
    proxy, variable = proxy_of(server) or ("", "")
    through = f" through the proxy {proxy}" if proxy else ""
    subject = where if _is_url(where) else f"{_named(server)}, contacted for {where},"
    check = ["the network", *([variable] if proxy else []), "the address" if _is_url(where) else "HF_ENDPOINT"]
    return HubUnreachableError(
        f"{subject} cannot be reached{through}: {reason}. Check {', '.join(check[:-1])} and {check[-1]}."
    )


def _server(chain: list[BaseException], where: str) -> str:
    """Return the server of the request, if it is known."""
    return where if _is_url(where) else asked_server(chain) or _endpoint()


def _named(server: str) -> str:
    if _is_url(server) and server != _endpoint() and not _endpoint().startswith(f"{server}/"):
        return "{0.scheme}://{0.netloc}".format(urlsplit(server))
    return f"The Hub at {_endpoint()}"


def _is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def refusal(answer: Answer, repo_id: str, revision: str | None, *, is_hub: bool = True) -> OptimumHTPError:
    """Return the exception for a rejected request, with the rules of huggingface_hub's `hf_raise_for_status`.

    The Hub responds with 401 for missing and for private models. Other servers use 401 for a wrong token.
    """
    code, message = answer.headers.get("X-Error-Code"), answer.headers.get("X-Error-Message")
    if not is_hub:
        return _refused(answer.status, answer.headers, repo_id)
    if code == "RevisionNotFound":
        return _no_revision(repo_id, revision)
    if code == "GatedRepo":
        return _gated(repo_id, revision)
    if message == "Access to this resource is disabled.":
        return _disabled(repo_id, revision)
    if code == "RepoNotFound" or (answer.status == 401 and message != "Invalid credentials in Authorization header"):
        return _no_model(repo_id)
    return _refused(answer.status, answer.headers, repo_at(repo_id, revision))


def _gated(repo_id: str, revision: str | None) -> GatedModelError:
    return GatedModelError(
        f"{repo_at(repo_id, revision)} is gated. Request access on its page ({_endpoint()}/{repo_id}), then {_LOGIN}."
    )


def _no_revision(repo_id: str, revision: str | None) -> RevisionNotFoundError:
    return RevisionNotFoundError(f"{repo_id} has no revision {revision!r}. Check the branch, tag or commit.")


def _no_model(repo_id: str) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"{_endpoint()} has no model {repo_id}, or it is private and this token has no access. Check the name; for a "
        f"private model, {_LOGIN}."
    )


def _disabled(repo_id: str, revision: str | None) -> RepoDisabledError:
    return RepoDisabledError(
        f"The Hub has disabled {repo_at(repo_id, revision)}. See {_endpoint()}/{repo_id} for the reason; use another "
        "model, or your own copy."
    )


def too_many_requests(headers: Mapping[str, str], where: str) -> RateLimitedError:
    """Return the exception for status 429."""
    seconds = retry_after(headers)
    wait = "a few minutes" if seconds is None else f"{seconds:.0f} seconds"
    return RateLimitedError(
        f"{_answering(where)} responded with 429 for {where}: too many requests. Try again in {wait}; with a token "
        "(HF_TOKEN) the limits are higher.",
        seconds,
    )


def _refused(status: int, headers: Mapping[str, str], where: str) -> OptimumHTPError:
    """Return the exception for a response of which only the status is known."""
    if status == TOO_MANY_REQUESTS:
        return too_many_requests(headers, where)
    if status == _OF_THE_PROXY:
        return _unreachable(where, where if _is_url(where) else _endpoint(), f"{status} Proxy Authentication Required")
    if status in _REFUSED:
        reason = headers.get("X-Error-Message") or "no reason is given"
        return AccessDeniedError(
            f"{_answering(where)} responded with {status} for {where} ({reason}). Check the token: {_LOGIN}."
        )
    return HubServerError(f"{_answering(where)} responded with {status} for {where}. Try again later.")


def _answering(where: str) -> str:
    return "The server" if _is_url(where) else "The Hub"


def _damaged(where: str, cause: BaseException) -> DamagedDownloadError:
    return DamagedDownloadError(
        f"Files of {where} were not received completely: {cause}. No damaged file was kept. Try again, with "
        "force_download=True if the error persists."
    )


def _endpoint() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)
