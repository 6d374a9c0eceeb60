"""An executor whose calls are made by the workers of a Dask cluster that is there already.

It has the interface of `concurrent.futures`. Nothing of ours listens or schedules: a call is a task of Dask's, which
gives it to another worker where one is lost. On its worker it has a process of its own, with limits, and the worker's
own credentials: no token is sent anywhere.
"""

from __future__ import annotations

import functools
import re
import socket
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

from optimum_htp.errors import ClusterError, JobError, JobLostError, MissingDependencyError
from optimum_htp.extras.batch.child_process import call_in_child
from optimum_htp.hubs.daemons import DaemonThreads
from optimum_htp.parsing import parse_json
from optimum_htp.version import __version__

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["ClusterExecutor"]

_PATIENCE: Final = 10  # seconds for a scheduler to answer
_CONNECTING: Final = 4  # seconds, of these
_HOST_AND_PORT: Final = re.compile(r"(?:[\w.-]+|\[[0-9a-fA-F:.%\w]+\]):\d{1,5}")
_PACKAGE: Final = "optimum_htp"

T = TypeVar("T")


def _address_of(text: str) -> str:
    """Return the address of a scheduler, which may be in a file that the scheduler wrote.

    Raises:
        OSError: The file cannot be read.
        ValueError: It has no address.
    """
    if "://" in text:
        return text
    if _HOST_AND_PORT.fullmatch(text) and not Path(text).exists():
        return f"tcp://{text}"
    content = parse_json(Path(text).read_bytes())
    address = content.get("address") if isinstance(content, dict) else None
    if not isinstance(address, str):
        raise ValueError("the file is not a scheduler file")
    return address


def _connect(address: str) -> None:
    """See that something listens at an address of TCP; other protocols are left to Dask.

    Raises:
        OSError: Nothing does.
        ValueError: It is not an address.
    """
    parts = urlsplit(address)
    if parts.scheme in ("tcp", "tls"):
        if parts.hostname is None or parts.port is None:
            raise ValueError("it is not tcp://HOST:PORT")
        socket.create_connection((parts.hostname, parts.port), _CONNECTING).close()


def _within(seconds: float, call: Callable[[], T]) -> T:
    """Return what a call returns; it is left to itself where that takes too long.

    Raises:
        TimeoutError: It does.
    """
    with DaemonThreads(1, "optimum-htp-cluster") as threads:
        future = threads.submit(call)
        wait([future], seconds)
        if not future.done():
            raise TimeoutError("no answer in time")
        return future.result()


class ClusterExecutor(Executor):
    """Runs each call on a worker of a Dask cluster.

    Args:
        address: The scheduler's, such as `tcp://host:8786`, or a path of its scheduler file.
        timeout: Seconds that a call may take; None for any number.
        memory: Bytes that a call's processes may have resident; None for any number.

    A future's exception is what the call raised, or a `JobError`.

    Raises:
        MissingDependencyError: distributed is not installed.
        ClusterError: No scheduler answers, or a worker lacks this package or has another version of it.
    """

    def __init__(self, address: str, *, timeout: float | None = None, memory: int | None = None) -> None:
        try:
            from distributed import Client
        except ImportError as error:
            raise MissingDependencyError(
                f"Dask clusters are reached with distributed: `pip install distributed` ({error})."
            ) from error
        try:
            place = _address_of(address)
            _within(
                _CONNECTING, lambda: _connect(place)
            )  # a client that cannot connect retries, and prints tracebacks
            make = functools.partial(Client, place, timeout=_CONNECTING, set_as_default=False)
            self._client: Client = _within(_CONNECTING + 1, make)
        except Exception as error:  # where another program answers, distributed raises many kinds
            raise ClusterError(
                f"No scheduler of Dask answers at {address}: {error or 'no answer in time'}. Start one with `dask "
                "scheduler`, and workers with `dask worker ADDRESS`."
            ) from error
        self._address, self._limits = address, (timeout, memory)
        try:
            self.slots = self._checked()
        except BaseException:  # Ctrl-C too: nobody else has the client, so nobody else closes it
            self._client.close()
            raise
        self._executor = self._client.get_executor(pure=False)

    def _checked(self) -> int:
        """Return how many calls the workers make at a time, where all of them have this version of the package."""
        versions = self._client.get_versions(packages=[_PACKAGE])["workers"]
        others = {
            name: known["packages"].get(_PACKAGE)
            for name, known in versions.items()
            if known["packages"].get(_PACKAGE) != __version__
        }
        if others:
            name, version = next(iter(others.items()))
            has = f"has optimum-htp {version}" if version else "has no optimum-htp"
            raise ClusterError(
                f"{len(others)} of {len(versions)} workers cannot do this: {name} {has}, and here is {__version__}. "
                f"Install it there: `pip install optimum-htp=={__version__}`."
            )
        threads: dict[str, int] = self._client.nthreads()
        return max(1, sum(threads.values()))

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Have `fn(*args)` called by a worker. `fn` is a function of a module, and its arguments are picklable."""
        if kwargs:
            raise TypeError("calls of a cluster take no keyword arguments")
        told: Future[T] = Future()
        told.set_running_or_notify_cancel()
        try:
            inner = self._executor.submit(call_in_child, fn, args, __version__, *self._limits)
        except Exception as error:  # noqa: BLE001 - distributed raises many kinds where its scheduler is gone
            told.set_exception(self._explained(error))
            return told
        inner.add_done_callback(lambda done: self._pass_on(done, told))
        return told

    def _pass_on(self, done: Future[tuple[T, BaseException | None]], told: Future[T]) -> None:
        try:
            value, error = done.result()
        except BaseException as lost:  # noqa: BLE001 - it is the future's
            told.set_exception(self._explained(lost))
            return
        if error is None:
            told.set_result(value)
        else:
            told.set_exception(error)

    def _explained(self, error: BaseException) -> BaseException:
        from distributed.scheduler import KilledWorker

        if isinstance(error, KilledWorker):
            return JobLostError(
                "Its workers were lost, several times over (the system ends them where memory runs out). Give them "
                "more memory, and run the batch again."
            )
        if isinstance(error, (ImportError, AttributeError)):
            return JobError(
                f"A worker cannot do this: {error}. Install there what is here: `pip install "
                f"optimum-htp=={__version__}`."
            )
        if isinstance(error, CancelledError) or self._client.status != "running":
            return JobLostError(f"The scheduler at {self._address} is lost. Start it, and run the batch again.")
        return JobLostError(f"The cluster lost it: {type(error).__name__}: {error}. Run the batch again.")

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. Those that run go on on their workers; nobody waits for them with `cancel_futures`."""
        if self._client.status == "running":
            self._executor.shutdown(wait=wait and not cancel_futures)
        self._client.close(timeout=_PATIENCE)
