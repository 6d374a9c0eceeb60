"""The SDK of ModelScope: client, requests that it has no method for, and translation of its errors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from optimum_htp.errors import (
    AccessDeniedError,
    DamagedDownloadError,
    DownloadError,
    HubServerError,
    HubTimeoutError,
    HubUnreachableError,
    MissingDependencyError,
    ModelNotFoundError,
    OptimumHTPError,
    RateLimitedError,
)
from optimum_htp.hubs.base import HubAccess
from optimum_htp.hubs.deadline import Deadline
from optimum_htp.onnxfile.replace_file import replaced_atomically
from optimum_htp.parsing import is_commit

__all__ = ["address", "commits", "connected", "fetch_small_file", "translated_errors"]

_LOGIN: Final = "set MODELSCOPE_API_TOKEN or run `ms login`"
_HUGGING_FACE_TOKEN: Final = "hf_"
_PIECE: Final = 1 << 16  # bytes


def connected(access: HubAccess) -> Any:
    """Return the client of the SDK. A token of the Hugging Face Hub is not used."""
    try:
        from modelscope_hub import HubApi, HubConfig
    except ImportError as error:
        raise MissingDependencyError(
            "Models of ModelScope require its SDK. Run `pip install modelscope-hub`."
        ) from error
    token: str | None = None  # None: the variable or the saved login of the SDK
    if access.token is False:
        token = ""
    elif isinstance(access.token, str) and not access.token.startswith(_HUGGING_FACE_TOKEN):
        token = access.token
    config = HubConfig(token=token)
    if access.cache_dir is not None:
        config.cache_dir = Path(access.cache_dir)
    return HubApi(config)


def address(api: Any) -> str:
    """Return the address of the site of a client."""
    return str(api.openapi.base_url).partition("/openapi/")[0]


def commits(api: Any, repo_id: str, revision: str, *, page: int, size: int) -> list[str]:
    """Return commits of a branch or tag, the newest first.

    The request is that of `HubApi.list_repo_commits` in the package `modelscope`, for which `modelscope-hub` has no
    method.
    """
    answer = api.openapi.request(
        "GET",
        url=f"{address(api)}/api/v1/models/{repo_id}/commits",
        params={"Ref": revision, "PageNumber": page, "PageSize": size},
        require_token=False,
    )
    entries = answer.get("Commit") if isinstance(answer, dict) else None
    if entries is not None and not isinstance(entries, list):
        raise HubServerError(f"ModelScope returned an invalid list of commits of {repo_id}. Try again.")
    found = [entry.get("Id") if isinstance(entry, dict) else None for entry in entries or ()]
    valid = [commit for commit in found if is_commit(commit)]
    if len(valid) < len(found):
        raise HubServerError(f"ModelScope returned an invalid commit of {repo_id}. Try again.")
    return valid


def fetch_small_file(
    api: Any, repo_id: str, commit: str, name: str, target: Path, expected: tuple[int, str], deadline: Deadline
) -> None:
    """Download a file without the progress bar of the SDK, and check its size and SHA-256."""
    digest, size = hashlib.sha256(), 0
    target.parent.mkdir(parents=True, exist_ok=True)
    answer = api.legacy.download_stream(repo_id, "model", name, commit, headers={"Accept-Encoding": "identity"})
    with closing(answer), replaced_atomically(target) as stream:
        for piece in answer.iter_content(_PIECE):
            deadline.arrived(len(piece))
            digest.update(piece)
            size += len(piece)
            stream.write(piece)
        if (size, digest.hexdigest()) != (expected[0], expected[1] or digest.hexdigest()):
            raise DamagedDownloadError(
                f"{name} of {repo_id} at {commit} differs from the digest that ModelScope lists. Try again."
            )


@contextmanager
def translated_errors(repo_id: str, revision: str | None) -> Iterator[None]:
    """Convert exceptions of the SDK and of the cache on disk to errors of this package."""
    import requests
    from modelscope_hub import errors

    at = repo_id if revision is None else f"{repo_id} at {revision}"
    try:
        yield
    except OptimumHTPError:
        raise
    except (errors.NotExistError, errors.AuthenticationError) as error:
        raise ModelNotFoundError(
            f"ModelScope has no {at}, or it is private and the token has no access. Check the name, or {_LOGIN}. "
            f"({error.message})"
        ) from error
    except errors.PermissionDeniedError as error:
        raise AccessDeniedError(f"ModelScope denies access to {at} ({error.message}): {_LOGIN}.") from error
    except errors.RateLimitError as error:
        raise RateLimitedError(
            f"ModelScope limits requests: {at} was not returned. Try again later.",
            getattr(error, "retry_after", None),
        ) from error
    except errors.FileIntegrityError as error:
        raise DamagedDownloadError(
            f"A file of {at} differs from the digest that ModelScope lists: {error.message}. Try again."
        ) from error
    except (errors.RequestTimeoutError, requests.Timeout, TimeoutError) as error:
        raise HubTimeoutError(f"ModelScope did not answer in time (request for {at}): {error}. Try again.") from error
    except errors.ServerError as error:
        raise HubServerError(
            f"ModelScope reports a server error (request for {at}): {error.message}. Try again later."
        ) from error
    except errors.HubError as error:
        raise HubUnreachableError(
            f"ModelScope cannot be reached (request for {at}): {error.message}. Check the network."
        ) from error
    except requests.RequestException as error:
        raise HubUnreachableError(
            f"ModelScope cannot be reached (request for {at}): {error}. Check the network."
        ) from error
    except OSError as error:
        raise DownloadError(
            f"{at} of ModelScope cannot be stored in the cache: {error}. Check the free disk space."
        ) from error
