"""Rate limits: the waiting times that Hubs request, shared by all threads of this process."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Final, TypeVar
from urllib.parse import urlsplit

from optimum_htp.errors import RateLimitedError
from optimum_htp.forking import ForkSafeLock
from optimum_htp.hubs.deadline import FIRST_PAUSE, Deadline
from optimum_htp.masking import get_logger

__all__ = ["forget", "hold", "retry_after", "seconds_held", "waiting_out"]

logger = get_logger(__name__)

_LONGEST: Final = 300.0  # Seconds for which one response can delay other requests: the Hub's own window.
_PARAMETER: Final = re.compile(r";\s*([rt])\s*=\s*(\d{1,9})(?!\d)")

_free_at: Final[dict[tuple[str, bool], float]] = {}
_lock: Final = ForkSafeLock()

T = TypeVar("T")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait from a response with status 429; None if it contains none.

    They are in `Retry-After`, as a number or a date (RFC 9110, section 10.2.3), or in `RateLimit`, in the Hub's form
    `"api";r=0;t=43` (draft-ietf-httpapi-ratelimit-headers).
    """
    text = headers.get("Retry-After")
    if not text:
        limits = [dict(_PARAMETER.findall(item)) for item in (headers.get("RateLimit") or "").split(",")]
        waits = [float(limit["t"]) for limit in limits if "t" in limit and limit.get("r", "0") == "0"]
        return max(waits, default=None)
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(timezone.utc)).total_seconds())
    except (ValueError, TypeError):  # Not a date, or a date without a time zone.
        return None


def hold(url: str, seconds: float) -> None:
    """Stop all threads from sending requests of this kind to this host for some seconds."""
    until = time.monotonic() + min(seconds, _LONGEST)
    with _lock.held():
        longer = until > _free_at.get(_bucket(url), 0.0) + 1
        _free_at[_bucket(url)] = max(until, _free_at.get(_bucket(url), 0.0))
    if longer and seconds >= 1:
        logger.warning("%s accepts no more requests for %.0f s.", urlsplit(url).netloc, seconds)


def seconds_held(url: str) -> float:
    """Return the seconds until a request of this kind may be sent to this host; 0 for no wait."""
    return max(0.0, _free_at.get(_bucket(url), 0.0) - time.monotonic())


def forget() -> None:
    """Remove all recorded waiting times."""
    _free_at.clear()


def waiting_out(call: Callable[[], T], deadline: Deadline) -> T:
    """Make a call, and repeat it after the waiting time that a Hub requests, if the time limit allows this.

    Raises:
        RateLimitedError: The waiting time exceeds the limit.
        BaseException: Exceptions of the call.
    """
    pause = FIRST_PAUSE
    while True:
        try:
            return call()
        except RateLimitedError as error:
            pause = max(pause, error.retry_after or 0.0)
            if pause >= deadline.left:
                raise
            logger.info("%s Trying again in %g s.", error, pause)
        time.sleep(pause)
        pause *= 2


def _bucket(url: str) -> tuple[str, bool]:
    """Return the key of a rate limit: the Hub counts requests for files and requests of its API separately."""
    parts = urlsplit(url)
    return parts.netloc, "/resolve/" in parts.path
