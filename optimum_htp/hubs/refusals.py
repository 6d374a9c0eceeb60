"""What huggingface_hub raises, in this package's words: what happened, to which model, and the next step.

huggingface_hub hides causes: what it raises as `LocalEntryNotFoundError` may be a Hub that answered with a refusal,
and a failed forced download is a `ValueError`. So the chain of causes is looked through.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from json import JSONDecodeError
from typing import Any, Final, NamedTuple

from optimum_htp.errors import (
    AccessDeniedError,
    DamagedDownloadError,
    DownloadError,
    GatedModelError,
    HFHubIntegrationError,
    HubServerError,
    HubTimeoutError,
    HubUnreachableError,
    InvalidModelReferenceError,
    ModelNotFoundError,
    OfflineError,
    RateLimitedError,
    RepoDisabledError,
    RevisionNotFoundError,
)

__all__ = ["translated_errors"]

_TOO_MANY_REQUESTS: Final = 429
_REFUSED: Final = (401, 403)
_LOGIN: Final = "set HF_TOKEN or run `hf auth login`"
# How huggingface_hub reports a file that is not as long as announced: an OSError of no class of its own.
_INCONSISTENT: Final = "Consistency check failed"


@contextmanager
def translated_errors(repo_id: str, revision: str | None) -> Iterator[None]:
    """Turn what huggingface_hub raises while it asks for a repo into this package's errors.

    Raises:
        HFHubIntegrationError: In place of any error of huggingface_hub, of HTTP, or of the cache on disk.
    """
    from huggingface_hub import errors

    failures: tuple[type[BaseException], ...] = (
        errors.HfHubHTTPError,
        errors.LocalEntryNotFoundError,
        errors.OfflineModeIsEnabled,
        _http().transport,
    )
    try:
        yield
    except HFHubIntegrationError:
        raise
    except errors.HFValidationError as error:
        raise InvalidModelReferenceError(
            f"{repo_id!r} is not a repo id ('name' or 'organization/name'): {error}"
        ) from error
    except failures as error:
        raise _explained(error, repo_id, revision) from error
    except OSError as error:
        if _INCONSISTENT in str(error):
            raise _damaged(repo_id, error) from error
        raise DownloadError(
            f"Files of {repo_id} cannot be fetched: {error}. Check the cache folder (HF_HOME) and its disk, then try "
            "again."
        ) from error
    except ValueError as error:  # an answer that is no JSON, or a forced download that failed
        if isinstance(error, JSONDecodeError):
            raise _explained(error, repo_id, revision) from error
        if not isinstance(error.__cause__, failures):
            raise
        raise _explained(error.__cause__, repo_id, revision) from error


def _explained(error: BaseException, repo_id: str, revision: str | None) -> HFHubIntegrationError:
    from huggingface_hub import errors

    where = repo_id if revision is None else f"{repo_id} at {revision}"
    chain = _chain(error)

    def caused_by(*types: type[BaseException]) -> bool:
        return any(isinstance(one, types) for one in chain)

    if caused_by(errors.GatedRepoError):
        return GatedModelError(
            f"{where} is gated. Ask for access on its page ({_endpoint()}/{repo_id}), then {_LOGIN}."
        )
    if caused_by(errors.RevisionNotFoundError):
        return RevisionNotFoundError(f"{repo_id} has no revision {revision!r}. Check the branch, tag or commit.")
    if caused_by(errors.RepositoryNotFoundError):
        return ModelNotFoundError(
            f"{_endpoint()} has no model {repo_id}, or it is private and this token may not see it. Check the "
            f"name; for a private model {_LOGIN}."
        )
    if caused_by(errors.DisabledRepoError):
        return RepoDisabledError(
            f"{where} has been disabled by the Hub, for everybody. See {_endpoint()}/{repo_id} for the reason; use "
            "another model, or a copy of your own."
        )
    if caused_by(errors.OfflineModeIsEnabled):
        return OfflineError(
            f"{where} is not in the cache, and HF_HUB_OFFLINE forbids to fetch it. Unset HF_HUB_OFFLINE once."
        )
    response = next((one.response for one in chain if getattr(one, "response", None) is not None), None)  # type: ignore[attr-defined]
    if response is not None:
        return _refused(response, where)
    if isinstance(error, errors.LocalEntryNotFoundError) and len(chain) == 1:
        return OfflineError(
            f"{where} is not in the cache, and local_files_only forbids to fetch it. Leave local_files_only out once."
        )
    if caused_by(JSONDecodeError):
        return HubServerError(
            f"What {_endpoint()} answered when asked for {where} is not JSON. Check HF_ENDPOINT and any proxy between."
        )
    if caused_by(_http().timeouts):
        return HubTimeoutError(
            f"The Hub at {_endpoint()} did not answer in time when asked for {where}. Try again, or give it more "
            "time with HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT (in seconds)."
        )
    if caused_by(*_http().damage):
        return _damaged(where, chain[-1])
    return HubUnreachableError(
        f"The Hub at {_endpoint()} cannot be reached for {where}: {chain[-1]}. Check the network and HF_ENDPOINT."
    )


def _refused(response: Any, where: str) -> HFHubIntegrationError:
    """Return the error for an answer that only its status tells about."""
    status = response.status_code
    if status == _TOO_MANY_REQUESTS:
        seconds = _seconds(response.headers.get("Retry-After"))
        wait = "a few minutes" if seconds is None else f"{seconds:.0f} seconds"
        return RateLimitedError(
            f"The Hub answered 429 when asked for {where}: too many requests. Try again in {wait}; with a token "
            "(HF_TOKEN) the limits are wider.",
            seconds,
        )
    if status in _REFUSED:
        reason = response.headers.get("X-Error-Message") or "no reason is given"
        return AccessDeniedError(
            f"The Hub answered {status} when asked for {where} ({reason}). Check the token: {_LOGIN}."
        )
    return HubServerError(f"The Hub answered {status} when asked for {where}. Try again later.")


def _damaged(where: str, cause: BaseException) -> DamagedDownloadError:
    return DamagedDownloadError(
        f"Files of {where} did not arrive whole: {cause}. Nothing damaged was kept; try again, with "
        "force_download=True if it persists."
    )


def _seconds(text: str | None) -> float | None:
    """Return what `Retry-After` says: seconds, or a date (RFC 9110, section 10.2.3)."""
    if not text:
        return None
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(timezone.utc)).total_seconds())
    except (ValueError, TypeError):  # no date, or one without a zone
        return None


def _chain(error: BaseException) -> list[BaseException]:
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    return chain


def _endpoint() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


class _Http(NamedTuple):
    """The exceptions of an HTTP library: all, those of time-outs, and those of answers that end too early."""

    transport: type[BaseException]
    timeouts: type[BaseException]
    damage: tuple[type[BaseException], ...]


@functools.cache
def _http() -> _Http:
    """Return those of the library that the installed huggingface_hub uses: requests, httpx since 1.0, then httpx2.

    It is the one that huggingface_hub derives its own exceptions from.
    """
    from huggingface_hub.errors import HfHubHTTPError

    bases = [one.__module__.partition(".")[0] for one in HfHubHTTPError.__mro__ if one.__name__ == "HTTPError"]
    if bases != ["requests"]:
        httpx = importlib.import_module(bases[0])
        return _Http(httpx.HTTPError, httpx.TimeoutException, (httpx.RemoteProtocolError, httpx.DecodingError))
    from requests import exceptions

    return _Http(
        exceptions.RequestException,
        exceptions.Timeout,
        (exceptions.ChunkedEncodingError, exceptions.ContentDecodingError),
    )
