"""Rate limits of a Hub in a batch: all jobs wait as long as the Hub requires, and then continue.

Commands for one model fail instead, if the wait is longer than `OPTIMUM_HTP_TIMEOUT`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

from optimum_htp.errors import RateLimitedError
from optimum_htp.masking import get_logger

__all__ = ["A_MINUTE", "Limit"]

logger = get_logger(__name__)

A_MINUTE: Final = 60.0  # seconds to wait if the Hub does not report a time
_MOST_WAITS: Final = 20  # per request

T = TypeVar("T")


class Limit:
    """The time before which no job of a batch may send a request. All jobs share it."""

    def __init__(self) -> None:
        self._until = 0.0
        self._ended = threading.Event()

    def kept(self, ask: Callable[[], T], asked_to_wait: Callable[[T], float | None] = lambda result: None) -> T:
        """Return the result of a request; repeat it after each wait that the Hub requires.

        Args:
            ask: Sends the request.
            asked_to_wait: Returns the seconds to wait from a result, if the request raises no `RateLimitedError`.

        Raises:
            RateLimitedError: The Hub required too many waits.
            BaseException: Any exception of `ask`.
        """
        for _ in range(_MOST_WAITS):
            self._wait()
            try:
                result = ask()
                seconds = asked_to_wait(result)
                if seconds is None:
                    return result
            except RateLimitedError as error:
                seconds = error.retry_after or A_MINUTE
            self._hold(seconds)
        self._wait()
        return ask()

    def end(self) -> None:
        """End all waits."""
        self._ended.set()

    def _hold(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        if until > self._until + 1:
            logger.warning("The Hub limits requests: all models wait %.0f s.", seconds)
        self._until = max(self._until, until)

    def _wait(self) -> None:
        """Return when requests are allowed, or the batch is interrupted."""
        while (left := self._until - time.monotonic()) > 0 and not self._ended.wait(left):
            pass
