"""A file on the Hugging Face Hub, read with range requests."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote, urlsplit

from optimum_htp.errors import OfflineError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.hubs.byte_ranges import FileLabel, RemoteFile
from optimum_htp.hubs.redirects import is_trusted

__all__ = ["file_at", "open_address", "open_hub_file"]

_PAGE: Final = re.compile(r"^(https?://[^?#]+?)/blob/")
_REPO_PAGE: Final = re.compile(
    r"/(?P<repo>[^/?#]+/[^/?#]+)(?:/tree/(?P<revision>refs/[^/?#]+/[^/?#]+|[^/?#]+)(?:/(?P<folder>[^?#]+))?)?/?(?:[?#].*)?"
)
_ADDRESS: Final = re.compile(
    r"/(?P<repo>[^/?#]+(?:/[^/?#]+)?)/resolve/(?P<revision>refs/[^/?#]+/[^/?#]+|[^/?#]+)/(?P<file>[^?#]+)(?:[?#].*)?"
)


def open_hub_file(repo_id: str, revision: str | None, path: str, access: HubAccess, head: int) -> RemoteFile:
    """Open a file in a repo.

    Args:
        repo_id: The repo.
        revision: Branch, tag or commit; None for the default branch.
        path: The file in the repo.
        access: Options for Hub requests.
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
    return RemoteFile(FileLabel(name, repo_id, revision), hf_hub_url(repo_id, path, revision=revision), headers, head)


def open_address(url: str, access: HubAccess, head: int) -> RemoteFile:
    """Open a file at an http(s) address.

    The address of a Hub page that shows a file is accepted too. Only the Hub at `HF_ENDPOINT` gets the token.

    Raises:
        OnnxFileNotFoundError, HFHubIntegrationError: As `RemoteFile`.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers

    address = _address_of(url)
    match = _ADDRESS.fullmatch(address.removeprefix(constants.ENDPOINT))
    if match is None:
        return RemoteFile(_place_of_page(url, constants.ENDPOINT), address, {}, head)
    place = FileLabel(url, match["repo"], unquote(match["revision"]))
    return RemoteFile(place, address, build_hf_headers(token=access.token), head)


def file_at(url: str) -> tuple[str, str, str] | None:
    """Return repo, revision and file of an address on a Hub, also of a page for a file; None for other addresses."""
    from huggingface_hub import constants

    address = _address_of(url)
    rest = address.removeprefix(constants.ENDPOINT)
    # The address is on the Hub, and HF_ENDPOINT is a mirror.
    if rest == address and is_trusted(address, constants.ENDPOINT):
        rest = urlsplit(address).path
    match = _ADDRESS.fullmatch(rest)
    return None if match is None else (match["repo"], unquote(match["revision"]), unquote(match["file"]))


def _address_of(url: str) -> str:
    """Return the download address for a page of a Hub that shows a file; any other address unchanged."""
    from huggingface_hub import constants

    return _PAGE.sub(r"\1/resolve/", url, count=1) if is_trusted(url, constants.ENDPOINT) else url


def _place_of_page(url: str, endpoint: str) -> FileLabel:
    """Return a label with what to type, in case the address is that of a repo's page."""
    match = _REPO_PAGE.fullmatch(url.removeprefix(endpoint))
    if match is None:
        return FileLabel(url)
    repo, revision = match["repo"], match["revision"] or "main"
    file = f"{match['folder'].strip('/')}/FILE.onnx" if match["folder"] else "FILE.onnx"
    return FileLabel(
        url,
        instead=f"Name the ONNX file: {endpoint}/{repo}/resolve/{revision}/{file}, or hf://{repo}@{revision}/{file}. "
        f"If the repo has only one ONNX file, hf://{repo}@{revision} is enough.",
    )
