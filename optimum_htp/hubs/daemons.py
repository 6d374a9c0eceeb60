"""Daemon threads: Ctrl-C ends a call although a download or an upload in such a thread continues.

The threads of `concurrent.futures` are joined at the end of a `with` block and at the end of the program. A download
of a large file can take an hour, and cannot be stopped from outside.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Final, TypeVar

__all__ = ["TRANSFERS", "DaemonThreads", "result_of"]

TRANSFERS: Final = "optimum-htp-hub"
"""The name of threads that download or upload."""

_TICK: Final = 0.5  # Seconds. On Windows, a wait without a timeout cannot be interrupted.

T = TypeVar("T")


class DaemonThreads(Executor):
    """An executor of at most `count` threads. If an exception leaves its block, waiting calls are cancelled, and the
    block ends at once.
    """

    def __init__(self, count: int, name: str = TRANSFERS) -> None:
        self._count, self._name = count, name
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._futures: set[Future[Any]] = set()
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Call `fn(*args, **kwargs)` in one of the threads."""
        future: Future[T] = Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - it is the future's
                future.set_exception(error)
            else:
                future.set_result(result)

        with self._lock:
            if self._closed:
                raise RuntimeError("this executor accepts no more calls")
            self._futures.add(future)
            self._calls.put(call)
            if len(self._threads) < self._count:
                self._threads.append(threading.Thread(target=self._work, name=self._name, daemon=True))
                self._threads[-1].start()
        future.add_done_callback(self._futures.discard)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls; with `wait`, wait for the running ones."""
        with self._lock:
            if not self._closed:
                self._closed = True
                for _ in self._threads:
                    self._calls.put(None)
        if cancel_futures:
            for future in self._futures.copy():
                future.cancel()
        if wait:
            for thread in self._threads:
                while thread.is_alive():
                    thread.join(_TICK)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown(wait=kind is None, cancel_futures=kind is not None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


def result_of(future: Future[T]) -> T:
    """Return the result of a future. Ctrl-C ends the wait."""
    while not future.done():
        wait([future], _TICK)
    return future.result()
