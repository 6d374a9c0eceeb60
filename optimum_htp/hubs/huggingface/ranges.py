"""A file of the Hugging Face Hub, read by range requests."""

from __future__ import annotations

from optimum_htp.errors import OfflineError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.hubs.byte_ranges import Place, RemoteFile

__all__ = ["open_hub_file"]


def open_hub_file(repo_id: str, revision: str | None, path: str, access: HubAccess, head: int) -> RemoteFile:
    """Open a file in a repo.

    Args:
        repo_id: The repo.
        revision: Branch, tag or commit; None for the main branch.
        path: The file in it.
        access: How to reach the Hub.
        head: Bytes to read at once.

    Raises:
        OfflineError: Connections are forbidden.
        OnnxFileNotFoundError, HFHubIntegrationError: As `RemoteFile`.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    name = f"{path} of {repo_id}"
    if access.local_files_only:
        at = "" if revision is None else f" at {revision}"
        raise OfflineError(f"{name}{at} is not in the cache and local_files_only is set. Run once without it.")
    headers = build_hf_headers(token=access.token)
    return RemoteFile(Place(name, repo_id, revision), hf_hub_url(repo_id, path, revision=revision), headers, head)
