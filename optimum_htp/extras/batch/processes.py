"""Runs each call in a separate process, with limits of time and memory.

`ProcessExecutor` has the interface of `concurrent.futures`. A server process imports the required modules once and
forks the processes, so a call does not wait for the import of PyTorch. On Windows, which has no fork, each process
imports them. All processes end with their parent.

The workers of a cluster cannot fork. There, `call_in_child` starts `python -m optimum_htp.extras.batch.processes`. It
reads a call and its limits from standard input, and writes the result to standard output. It ends when its input is
closed, because the worker has ended.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from multiprocessing.connection import Connection, wait
from typing import IO, Any, Final, TypeVar

from optimum_htp.errors import JobError, JobLostError, JobMemoryError, JobTimeoutError
from optimum_htp.starting import command_of_module, without_current_folder
from optimum_htp.version import __version__

__all__ = ["ProcessExecutor", "call_in_child", "peak_memory"]

_MODULE: Final = "optimum_htp.extras.batch.processes"
_TICK: Final = 0.1  # seconds between two checks of the memory
_GRACE: Final = 2.0  # seconds for a process to remove incomplete files

T = TypeVar("T")


class ProcessExecutor(Executor):
    """Runs calls in `slots` parallel processes, with limits in seconds and in bytes of resident memory.

    The server imports the module `preload` before it forks. `threads` is the number of threads of PyTorch per process.
    The exception of a future is the exception of the call, or `JobTimeoutError`, `JobMemoryError` or `JobLostError`.
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
        """Accept no more calls; with `cancel_futures` also end the running ones."""
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
        """Wait for the answer of a process; return None if it ends without one."""
        started = time.monotonic()
        while not wait([receiving, process.sentinel], _TICK):
            if self._stopped.is_set():
                raise JobLostError("the batch was interrupted")
            if self._timeout is not None and time.monotonic() - started > self._timeout:
                raise JobTimeoutError(
                    f"The export took more than {self._timeout:g} s. Raise the limit with --timeout."
                )
            if self._memory is not None and (used := _memory_of(process.pid)) > self._memory:
                raise JobMemoryError(
                    f"It needed more than {self._memory / 1e9:.1f} GB of memory ({used / 1e9:.1f} GB when it was "
                    "stopped). Raise the limit with --memory."
                )
        try:
            answer: tuple[Any, BaseException | None] = receiving.recv()
        except EOFError:
            return None
        return answer


def peak_memory() -> int:
    """Return the peak of the resident memory of this process, in bytes."""
    import psutil

    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # see getrusage(2) of macOS and Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _called(sending: Connection, fn: Callable[..., Any], args: Any, kwargs: Any, threads: int | None) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(AttributeError):  # Windows has no process groups
        os.setpgid(0, 0)  # only the parent receives Ctrl-C, and ends its processes
    null = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):  # results are sent to the parent
        os.dup2(null, descriptor)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    try:
        answer: tuple[Any, BaseException | None] = (fn(*args, **kwargs), None)
    except Exception as error:  # noqa: BLE001 - passed to the future
        answer = (None, error)
    sending.send(answer)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _memory_of(pid: int) -> int:
    """Return the resident memory of a process and its children, in bytes."""
    import psutil

    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for member in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += member.memory_info().rss
    return total


def _end(process: Any, deadline: float) -> None:
    """End a process and its children, after waiting some seconds for a regular end."""
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
        return f"The process was ended by {name} (for example because memory ran out). Run the batch again."
    return f"The process ended with code {exitcode}. Run the batch again."


def call_in_child(
    fn: Callable[..., Any], args: tuple[Any, ...], version: str, timeout: float | None, memory: int | None
) -> tuple[Any, BaseException | None]:
    """Call a function of a module in a separate process, on a worker with the same version of this package.

    Returns:
        The result and None, or None and the exception; a `JobError` if the call did not end. The exception is
        returned, because Dask would convert a raised one to text.
    """
    if version != __version__:
        return None, JobError(
            f"This worker has optimum-htp {__version__}, but the batch has {version}. Install the same on both: "
            f"`pip install optimum-htp=={version}`."
        )
    process = subprocess.Popen(
        command_of_module(_MODULE), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        _send(process.stdin, (fn, args, timeout, memory))
        try:
            answer: tuple[Any, BaseException | None] = pickle.load(process.stdout)
        except EOFError:
            answer = None, JobLostError("The process of the export has ended without a result. Run the batch again.")
        finally:
            process.kill()
    return answer


def _send(stream: IO[bytes], content: Any) -> None:
    """Write content for `pickle.load`, which is safe, because the reader is our parent or child process."""
    stream.write(pickle.dumps(content))
    stream.flush()


def _main() -> None:
    from optimum_htp.extras.batch.processes import ProcessExecutor  # this module is `__main__`, and is pickled by name

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # output of libraries must not mix with the answer
    fn, args, timeout, memory = pickle.load(sys.stdin.buffer)

    def end_with_worker() -> None:
        sys.stdin.buffer.read(1)
        os._exit(1)

    threading.Thread(target=end_with_worker, daemon=True).start()
    with ProcessExecutor(1, timeout=timeout, memory=memory) as processes:
        future = processes.submit(fn, *args)
        error = future.exception()
        _send(answers, (None if error is not None else future.result(), error))
    os._exit(0)


if __name__ == "__main__":
    _main()
