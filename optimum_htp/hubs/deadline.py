"""How long the Hub may take: one span for a look-up or a download, its retries included.

Small files and answers are held to a least rate besides, so that an answer that drips is given up while a long one
over a slow line is not. What cannot be interrupted (a name server that does not answer, headers that drip) is left to
a thread of its own, for which nobody waits longer than that.
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
"""Seconds before a second try; each further pause is twice as long."""

TIMEOUT_VARIABLE: Final = "OPTIMUM_HTP_TIMEOUT"
_DEFAULT: Final = 60.0  # seconds
_LEAST_RATE: Final = 1 << 14  # bytes a second
_GRACE: Final = 1.0  # seconds for a thread to say itself, and better, that its time is up

T = TypeVar("T")


class Deadline:
    """The time that is left for an exchange with the Hub; every byte that arrives adds its share to it.

    Args:
        seconds: How long nothing may arrive; None for `OPTIMUM_HTP_TIMEOUT`, 60 where that is not set.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.seconds = _from_environment() if seconds is None else seconds
        self._end = time.monotonic() + self.seconds
        self._lock = threading.Lock()

    @property
    def left(self) -> float:
        """Seconds that are left; negative afterwards."""
        return self._end - time.monotonic()

    def arrived(self, count: int) -> None:
        """Note that bytes have arrived.

        Raises:
            TimeoutError: Too late.
        """
        with self._lock:
            self._end += count / _LEAST_RATE
        self.check()

    def check(self) -> None:
        """Go on only while there is time.

        Raises:
            TimeoutError: There is none.
        """
        if self.left <= 0:
            raise TimeoutError(f"no end after {self.seconds:g} seconds")

    def timeout(self, at_most: float) -> float:
        """Return how long to wait for the next piece of an answer.

        Raises:
            TimeoutError: There is no time left.
        """
        self.check()
        return max(min(self.left, at_most), 0.001)

    def abort(self) -> bool:
        """End what still runs when a call is given up; return whether its thread then ends at once."""
        return False


def in_parallel(calls: Sequence[Callable[[], T]], deadline: Deadline, threads: int) -> Iterator[T]:
    """Make calls in threads and yield what they return, as they end.

    Raises:
        TimeoutError: Time is up. Threads that still wait for an answer are left to themselves; they keep no
            process alive.
        BaseException: What the first call that fails raises; calls that have not begun then are not made.
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
                raise TimeoutError(f"no end after {deadline.seconds:g} seconds")
            for future in done:
                yield future.result()
        for worker in workers:  # an exit would end them where they hold a lock, as that of progress bars
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
    logger.warning("%s is %r: it has to be seconds. %g is taken.", TIMEOUT_VARIABLE, text, _DEFAULT)
    return _DEFAULT
