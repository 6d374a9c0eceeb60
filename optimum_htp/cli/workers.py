"""Processes files in parallel with a progress bar, until all are done or a signal arrives.

The threads are daemons, because Python waits for threads of `concurrent.futures` at its end. Each thread stores a
result before it reports it, so a signal loses no finished result.
"""

from __future__ import annotations

import contextlib
import contextvars
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from optimum_htp.cli.display import is_hidden
from optimum_htp.cli.interrupts import Stop

__all__ = ["Workers"]

_TICK: Final = 0.5  # seconds; an unlimited wait cannot be interrupted on Windows

T = TypeVar("T")


class Workers(Generic[T]):
    """Threads that process one file after the other.

    Args:
        files: The files.
        work: Function that processes a file; it raises only `KeyboardInterrupt`.
        count: Number of threads.
        stop: State of the signals.
    """

    def __init__(self, files: Sequence[str], work: Callable[[str], T], count: int, stop: Stop) -> None:
        self._files = files
        self._work = work
        self._stop = stop
        self._found: dict[int, T] = {}
        self._waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[int] = queue.SimpleQueue()
        for index in range(len(files)):
            self._waiting.put(index)
        self._threads = [
            threading.Thread(target=contextvars.copy_context().run, args=(self._take,), daemon=True)
            for _ in range(min(count, len(files)))
        ]

    @property
    def outcomes(self) -> list[T]:
        """The results in the order of the files, without files that a signal prevented."""
        return [self._found[index] for index in sorted(self._found.copy())]

    def run(self) -> None:
        """Process all files, or return after a signal."""
        from tqdm import tqdm

        hidden = is_hidden(hidden=len(self._files) == 1)
        try:
            for thread in self._threads:
                thread.start()
            with tqdm(total=len(self._files), unit="file", disable=hidden, leave=False) as progress:
                for _ in self._files:
                    self._wait_for_one()
                    progress.update()
        except KeyboardInterrupt:
            self._stop.end(self._threads)

    def _wait_for_one(self) -> None:
        while True:
            self._stop.check()
            with contextlib.suppress(queue.Empty):
                self._done.get(timeout=_TICK)
                return

    def _take(self) -> None:
        with contextlib.suppress(queue.Empty, KeyboardInterrupt):
            while not self._stop.wanted:
                index = self._waiting.get_nowait()
                self._found[index] = self._work(self._files[index])
                self._done.put(index)
