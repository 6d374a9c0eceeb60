"""An executor whose every call has a process of its own, with a limit of time and of memory.

It has the interface of `concurrent.futures`. The processes are forked by a server that has imported what calls need,
so they do not wait for PyTorch, and nothing of one call is left for the next. Where nothing can be forked (Windows),
each imports for itself. The processes end with the one that started them, however that ends.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from multiprocessing.connection import Connection, wait
from typing import Any, Final, TypeVar

from optimum_htp.errors import JobLostError, JobMemoryError, JobTimeoutError
from optimum_htp.starting import without_current_folder

__all__ = ["ProcessExecutor", "peak_memory"]

_TICK: Final = 0.1  # seconds between two looks at a process's memory
_GRACE: Final = 2.0  # seconds for a process to remove what it has half written

T = TypeVar("T")


class ProcessExecutor(Executor):
    """Runs each call in a process of its own.

    Args:
        slots: How many at a time.
        timeout: Seconds that a call may take; None for any number.
        memory: Bytes that a call's processes may have resident; None for any number.
        preload: Name of a module that the server imports before it forks; None for none.
        threads: How many threads PyTorch may use in each; None for its own number.

    A future's exception is what the call raised, or `JobTimeoutError`, `JobMemoryError` or `JobLostError`.
    """

    def __init__(
        self,
        slots: int,
        *,
        timeout: float | None = None,
        memory: int | None = None,
        preload: str | None = None,
        threads: int | None = None,
    ) -> None:
        methods = multiprocessing.get_all_start_methods()
        self._context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        if "forkserver" in methods:
            self._context.set_forkserver_preload([] if preload is None else [preload])
        self.slots = slots
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="optimum-htp-batch")
        self._timeout, self._memory, self._math_threads = timeout, memory, threads
        self._stopped = threading.Event()

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run `fn(*args, **kwargs)`, all of which must be picklable, in a process."""
        return self._threads.submit(self._run, fn, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; with `cancel_futures` also end those that run."""
        if cancel_futures:
            self._stopped.set()
        self._threads.shutdown(wait, cancel_futures=cancel_futures)

    def _run(self, fn: Callable[..., T], args: Any, kwargs: Any) -> T:
        receiving, sending = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_called, args=(sending, fn, args, kwargs, self._math_threads))
        with without_current_folder():
            process.start()
        sending.close()
        deadline, answered = 0.0, None
        try:
            answered = self._answer(process, receiving)
            deadline = _GRACE
        finally:
            _end(process, deadline)
            receiving.close()
        if answered is None:
            raise JobLostError(_ended_by(process.exitcode))
        value, error = answered
        if error is not None:
            raise error
        return value  # type: ignore[no-any-return]

    def _answer(self, process: Any, receiving: Connection) -> tuple[Any, BaseException | None] | None:
        """Wait for what the process says; None where it ends without a word."""
        started = time.monotonic()
        while not wait([receiving, process.sentinel], _TICK):
            if self._stopped.is_set():
                raise JobLostError("the batch was interrupted")
            if self._timeout is not None and time.monotonic() - started > self._timeout:
                raise JobTimeoutError(f"It took more than {self._timeout:g} s. Give it more with --timeout.")
            if self._memory is not None and (used := _memory_of(process.pid)) > self._memory:
                raise JobMemoryError(
                    f"It needed more than {self._memory / 1e9:.1f} GB of memory ({used / 1e9:.1f} GB when it was "
                    "ended). Give it more with --memory."
                )
        try:
            answer: tuple[Any, BaseException | None] = receiving.recv()
        except EOFError:
            return None
        return answer


def peak_memory() -> int:
    """Return the most memory that this process has had resident, in bytes."""
    import psutil

    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2) of either
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _called(sending: Connection, fn: Callable[..., Any], args: Any, kwargs: Any, threads: int | None) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(AttributeError):  # Windows has no process groups
        os.setpgid(0, 0)  # Ctrl-C reaches the parent alone, which ends its processes in order
    null = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):  # what is worth telling goes back to the parent
        os.dup2(null, descriptor)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    try:
        answer: tuple[Any, BaseException | None] = (fn(*args, **kwargs), None)
    except Exception as error:  # noqa: BLE001 - it is the future's
        answer = (None, error)
    sending.send(answer)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _memory_of(pid: int) -> int:
    """Return how much memory a process and those that it started have resident, in bytes."""
    import psutil

    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for member in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += member.memory_info().rss
    return total


def _end(process: Any, deadline: float) -> None:
    """See that a process and those that it started have ended; it has some seconds to do so by itself."""
    import psutil

    children = []
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
    process.join(deadline)
    for end in (process.terminate, process.kill):
        if process.is_alive():
            end()
            process.join(_GRACE)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.join()


def _ended_by(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name if -exitcode in set(signal.Signals) else str(-exitcode)
        return f"Its process was ended by {name} (the system does that where memory runs out). Run the batch again."
    return f"Its process ended with code {exitcode}. Run the batch again."
