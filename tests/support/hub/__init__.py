"""A Hugging Face Hub on the loopback interface: real HTTP, git-like repos, and a log of every request.

It responds like public recordings of huggingface.co. There are three origins: the Hub (`LoopbackHub.url`), the storage
of large files on another host name (`cdn`), and a mirror (`mirror`), which redirects to the Hub.

- Small files of public repos: 307, relative, to `/api/resolve-cache/...`; there gzip, chunked and with a weak ETag
  if gzip is accepted, and then without ranges. Private, gated, old and empty ones: directly.
- Large files: 302 to the storage, with their SHA-256, size and Xet hash. The URL is signed and expires; if it was
  requested with `Range`, it is valid for that range only.
- Renamed repos: 307, relative. Lists: in pages, with `Link`. Refusals: status, `X-Error-Code`, `X-Error-Message`.
- Rate limits: 429 with `RateLimit` and without `Retry-After`.
- Xet: tokens for a server that stores uploads of hf_xet (`cas.py`), or does not respond or fails (`xet.py`).

Not simulated: TLS, HTTP/2, the HTTP protocol of Xet's servers, multipart uploads.
"""

from tests.support.hub.repos import Files, Repo
from tests.support.hub.server import LoopbackHub, Request, Tamper

__all__ = ["Files", "LoopbackHub", "Repo", "Request", "Tamper"]
