"""Time limits of lookups and downloads, including their retries, and the waiting times that Hubs request.

Small files and responses also need a minimum rate. So a response that arrives byte by byte is given up, and a long
one over a slow connection is not. Calls that cannot be interrupted (a name server that does not respond, slow
headers) run in a thread of their own, and no caller waits longer than the limit.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Final, TypeVar
from urllib.parse import urlsplit

from optimum_htp.errors import RateLimitedError
from optimum_htp.forking import ForkSafeLock
from optimum_htp.hubs.daemons import DaemonThreads
from optimum_htp.masking import get_logger

__all__ = [
    "FIRST_PAUSE",
    "TIMEOUT_VARIABLE",
    "Deadline",
    "forget_waits",
    "hold",
    "in_parallel",
    "retry_after",
    "seconds_held",
    "waiting_out",
]

logger = get_logger(__name__)

FIRST_PAUSE: Final = 0.5
"""Seconds before the second try. Each further pause is twice as long."""

TIMEOUT_VARIABLE: Final = "OPTIMUM_HTP_TIMEOUT"
_DEFAULT: Final = 60.0  # Seconds.
_LEAST_RATE: Final = 1 << 14  # Bytes per second.
_GRACE: Final = 1.0  # Seconds for a thread to raise its own, more exact error after the limit.
_LONGEST: Final = 300.0  # Seconds for which one response can delay other requests: the Hub's own window.
_PARAMETER: Final = re.compile(r";\s*([rt])\s*=\s*(\d{1,9})(?!\d)")

_free_at: Final[dict[tuple[str, bool], float]] = {}
_free_at_lock: Final = ForkSafeLock()

T = TypeVar("T")


class Deadline:
    """The remaining time of an exchange with the Hub. Each received byte extends it.

    The maximum time without received bytes is `OPTIMUM_HTP_TIMEOUT`, by default 60 seconds, unless `seconds` is given.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.seconds = _from_environment() if seconds is None else seconds
        self._end = time.monotonic() + self.seconds
        self._lock = threading.Lock()

    @property
    def left(self) -> float:
        """Remaining seconds; negative after the limit."""
        return self._end - time.monotonic()

    def arrived(self, count: int) -> None:
        """Record received bytes, and check that time remains."""
        with self._lock:
            self._end += count / _LEAST_RATE
        self.check()

    def check(self) -> None:
        """Raise `TimeoutError` if no time remains."""
        if self.left <= 0:
            raise TimeoutError(f"not finished after {self.seconds:g} seconds")

    def timeout(self, at_most: float) -> float:
        """Return the timeout for the next part of a response, if time remains."""
        self.check()
        return max(min(self.left, at_most), 0.001)

    def abort(self) -> bool:
        """End running work when a call is given up; return whether its thread then ends at once."""
        return False


def in_parallel(calls: Sequence[Callable[[], T]], deadline: Deadline, threads: int) -> Iterator[T]:
    """Call functions in threads, and yield their results as they end.

    Raises:
        TimeoutError: The limit is exceeded. Threads that still wait for a response continue; they do not keep the
            process alive.
        BaseException: The exception of the first failed call. Calls that have not begun are cancelled.
    """
    with DaemonThreads(threads) as executor:
        # At its end, the block waits for the threads. An exit would end them while they hold a lock, for example that
        # of progress bars.
        pending = {executor.submit(call) for call in calls}
        try:
            while pending:
                done, pending = wait(pending, timeout=max(deadline.left, 0) + _GRACE, return_when=FIRST_COMPLETED)
                if not done and deadline.left + _GRACE <= 0:
                    raise TimeoutError(f"not finished after {deadline.seconds:g} seconds")
                for future in done:
                    yield future.result()
        except (TimeoutError, KeyboardInterrupt) as error:
            if (deadline.left <= 0 or isinstance(error, KeyboardInterrupt)) and deadline.abort():
                executor.shutdown(wait=False, cancel_futures=True)
                wait(pending, _GRACE)
            raise


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
    with _free_at_lock.held():
        longer = until > _free_at.get(_bucket(url), 0.0) + 1
        _free_at[_bucket(url)] = max(until, _free_at.get(_bucket(url), 0.0))
    if longer and seconds >= 1:
        logger.warning("%s accepts no more requests for %.0f s.", urlsplit(url).netloc, seconds)


def seconds_held(url: str) -> float:
    """Return the seconds until a request of this kind may be sent to this host; 0 for no wait."""
    return max(0.0, _free_at.get(_bucket(url), 0.0) - time.monotonic())


def forget_waits() -> None:
    """Remove all recorded waiting times."""
    _free_at.clear()


def waiting_out(call: Callable[[], T], deadline: Deadline) -> T:
    """Make a call, and repeat it after the waiting time that a Hub requests, if the time limit allows this."""
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


def _from_environment() -> float:
    text = os.environ.get(TIMEOUT_VARIABLE)
    try:
        seconds = float(text) if text else _DEFAULT
    except ValueError:
        seconds = 0.0
    if 0 < seconds < 1e6:
        return seconds
    logger.warning("%s is %r, but must be a number of seconds. %g is used.", TIMEOUT_VARIABLE, text, _DEFAULT)
    return _DEFAULT
