"""Runs one call in a child process, for a worker that cannot fork.

    python -m optimum_htp.extras.batch.child_process

The process reads the call and its limits from standard input, runs it, and writes the result to standard output. It
ends when its input is closed, because the worker has ended.
"""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import IO, Any, Final

from optimum_htp.errors import JobError, JobLostError
from optimum_htp.starting import command_of_module
from optimum_htp.version import __version__

__all__ = ["call_in_child"]

_LENGTH: Final = struct.Struct("!Q")


def call_in_child(
    fn: Callable[..., Any], args: tuple[Any, ...], version: str, timeout: float | None, memory: int | None
) -> tuple[Any, BaseException | None]:
    """Call a function in a separate process. A batch runs this on the workers of a cluster.

    Args:
        fn: A function of a module.
        args: Its arguments.
        version: Version of this package that the batch runs.
        timeout: Time limit of the call, in seconds.
        memory: Limit of the resident memory of its processes, in bytes.

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
        command_of_module("optimum_htp.extras.batch.child_process"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        _send(process.stdin, (fn, args, timeout, memory))
        try:
            answer: tuple[Any, BaseException | None] = _received(process.stdout)
        except EOFError:
            answer = None, JobLostError("The process of the export has ended without a result. Run the batch again.")
        finally:
            process.kill()
    return answer


def _send(stream: IO[bytes], content: Any) -> None:
    text = pickle.dumps(content)
    stream.write(_LENGTH.pack(len(text)) + text)
    stream.flush()


def _received(stream: IO[bytes]) -> Any:
    """Read the content that `_send` wrote. The sender is our parent or child process, so unpickling is safe."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    return pickle.loads(stream.read(_LENGTH.unpack(head)[0]))


def _main() -> None:
    from optimum_htp.extras.batch.processes import ProcessExecutor

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # output of libraries must not mix with the answer
    fn, args, timeout, memory = _received(sys.stdin.buffer)

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
