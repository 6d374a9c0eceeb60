"""How a batch keeps to the limits of a Hub: all of it waits as long as the Hub says, and then goes on.

A command that is about one model gives up where the wait is longer than `OPTIMUM_HTP_TIMEOUT`, and says so.
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

A_MINUTE: Final = 60.0  # to wait where a Hub does not report how long
_MOST_WAITS: Final = 20  # for one thing that is asked for

T = TypeVar("T")


class Limit:
    """The time until which nothing of a batch asks the Hub, shared by all of its jobs."""

    def __init__(self) -> None:
        self._until = 0.0
        self._ended = threading.Event()

    def kept(self, ask: Callable[[], T], asked_to_wait: Callable[[T], float | None] = lambda result: None) -> T:
        """Ask the Hub; again after the time that it asks to wait.

        Args:
            ask: Asks it.
            asked_to_wait: Tells from a result how long the Hub asks to wait, where no `RateLimitedError` says it.

        Raises:
            RateLimitedError: The Hub has asked for too many waits.
            BaseException: What `ask` raises.
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
        """Let nobody wait any longer."""
        self._ended.set()

    def _hold(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        if until > self._until + 1:
            logger.warning("The Hub had too many requests from here: all models wait %.0f s.", seconds)
        self._until = max(self._until, until)

    def _wait(self) -> None:
        """Return once the Hub may be asked, or the batch is interrupted."""
        while (left := self._until - time.monotonic()) > 0 and not self._ended.wait(left):
            pass
