"""A file of the Hugging Face Hub, read by range requests from several threads, with a count of what that took."""

from __future__ import annotations

import threading
from urllib.parse import urlsplit

from optimum_htp.errors import OfflineError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.hubs.byte_ranges import CHUNK, Place, get_range
from optimum_htp.hubs.refusals import translated_errors

__all__ = ["HubRanges"]


class HubRanges:
    """A file in a repo, read by range requests; from any thread.

    The first request, made at once, brings its first bytes and says how many it has.

    Args:
        repo_id: The repo.
        revision: Branch, tag or commit.
        path: The file in it.
        access: How to reach the Hub.

    Attributes:
        size: Of the file, in bytes.
        fetched: Bytes that have come over the network.

    Raises:
        OfflineError: Connections are forbidden.
        OnnxFileNotFoundError, HFHubIntegrationError: The Hub does not give it; the subclass says why. Reading too.
    """

    def __init__(self, repo_id: str, revision: str, path: str, access: HubAccess) -> None:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers

        self._place = Place(f"{path} of {repo_id}", repo_id, revision)
        if access.local_files_only:
            raise OfflineError(
                f"{self._place.name} at {revision} is not in the cache, and local_files_only forbids to fetch it."
            )
        with translated_errors(repo_id, revision):
            address = hf_hub_url(repo_id, path, revision=revision)
            headers = build_hf_headers(token=access.token)
            self._first = get_range(self._place, address, headers, 0, CHUNK)
        same_host = urlsplit(self._first.url)[:2] == urlsplit(address)[:2]
        self._headers = headers if same_host else {}
        self._lock = threading.Lock()
        self.size = self._first.total
        self.fetched = len(self._first.content)

    def read(self, start: int, length: int) -> bytes:
        """Return bytes of the file, fewer only at its end."""
        length = min(length, self.size - start)
        if start + length <= len(self._first.content):
            return self._first.content[start : start + length]
        with translated_errors(self._place.repo_id or "", self._place.revision):
            content = get_range(self._place, self._first.url, self._headers, start, length).content
        with self._lock:
            self.fetched += len(content)
        return content
