"""Redirects: their targets, and the hosts that get the token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

from optimum_htp.errors import HubServerError

__all__ = ["headers_for", "is_trusted", "redirection"]

_REDIRECTS: Final = (301, 302, 303, 307, 308)
# The origins that huggingface_hub accepts as the Hub.
_HUBS: Final = ("https://huggingface.co", "https://hub-ci.huggingface.co", "https://hf.co")


def headers_for(url: str, asked: str, headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers for the target of a redirect. Only the same host and Hubs get the token."""
    if is_trusted(url, asked):
        return dict(headers)
    return {name: value for name, value in headers.items() if name.lower() != "authorization"}


def is_trusted(url: str, asked: str) -> bool:
    """Whether an address is on the same host as another, or on a Hub. A mirror may redirect to the Hub."""
    from huggingface_hub import constants

    return _origin(url) in map(_origin, (asked, constants.ENDPOINT, *_HUBS))


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def redirection(url: str, response: Any) -> str | None:
    """Return the target of a redirect; None for other responses.

    Raises:
        HubServerError: The target is not an address, or not HTTP.
    """
    target = response.headers.get("Location")
    if target is None or response.status_code not in _REDIRECTS:
        return None
    try:
        following: str = urljoin(url, target)
        if _origin(following)[0] in ("http", "https"):
            return following
        reason = "which is not HTTP"
    except ValueError as error:
        reason = f"which is not an address ({error})"
    raise HubServerError(f"{url} redirects to {target!r}, {reason}. Check HF_ENDPOINT and any proxy in between.")
