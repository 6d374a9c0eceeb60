"""The time limit of a lookup or a download, including its retries.

Small files and responses also need a minimum rate. So a response that arrives byte by byte is given up, and a long
one over a slow connection is not. Calls that cannot be interrupted (a name server that does not respond, slow
headers) run in a thread of their own, and no caller waits longer than the limit.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from queue import Empty, SimpleQueue
from typing import Final, TypeVar

from optimum_htp.hubs.daemons import TRANSFERS
from optimum_htp.masking import get_logger

__all__ = ["FIRST_PAUSE", "TIMEOUT_VARIABLE", "Deadline", "in_parallel"]

logger = get_logger(__name__)

FIRST_PAUSE: Final = 0.5
"""Seconds before the second try. Each further pause is twice as long."""

TIMEOUT_VARIABLE: Final = "OPTIMUM_HTP_TIMEOUT"
_DEFAULT: Final = 60.0  # Seconds.
_LEAST_RATE: Final = 1 << 14  # Bytes per second.
_GRACE: Final = 1.0  # Seconds for a thread to raise its own, more exact error after the limit.

T = TypeVar("T")


class Deadline:
    """The remaining time of an exchange with the Hub. Each received byte extends it.

    Args:
        seconds: Maximum time without received bytes; None for `OPTIMUM_HTP_TIMEOUT`, by default 60.
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
        """Record received bytes.

        Raises:
            TimeoutError: The limit is exceeded.
        """
        with self._lock:
            self._end += count / _LEAST_RATE
        self.check()

    def check(self) -> None:
        """Check that time remains.

        Raises:
            TimeoutError: The limit is exceeded.
        """
        if self.left <= 0:
            raise TimeoutError(f"not finished after {self.seconds:g} seconds")

    def timeout(self, at_most: float) -> float:
        """Return the timeout for the next part of a response.

        Raises:
            TimeoutError: The limit is exceeded.
        """
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
    futures: list[Future[T]] = [Future() for _ in calls]
    queue: SimpleQueue[tuple[Future[T], Callable[[], T]]] = SimpleQueue()
    for pair in zip(futures, calls, strict=True):
        queue.put(pair)
    stopped = threading.Event()

    def work() -> None:
        while not stopped.is_set():
            try:
                future, call = queue.get_nowait()
            except Empty:
                return
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
                future.set_exception(error)

    workers = [threading.Thread(target=work, name=TRANSFERS, daemon=True) for _ in range(min(threads, len(calls)))]
    for worker in workers:
        worker.start()
    try:
        pending = set(futures)
        while pending:
            done, pending = wait(pending, timeout=max(deadline.left, 0) + _GRACE, return_when=FIRST_COMPLETED)
            if not done and deadline.left + _GRACE <= 0:
                raise TimeoutError(f"not finished after {deadline.seconds:g} seconds")
            for future in done:
                yield future.result()
        for worker in workers:  # An exit would end them while they hold a lock, for example that of progress bars.
            worker.join()
    except (TimeoutError, KeyboardInterrupt) as error:
        if (deadline.left <= 0 or isinstance(error, KeyboardInterrupt)) and deadline.abort():
            for worker in workers:
                worker.join(_GRACE)
        raise
    finally:
        stopped.set()


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
