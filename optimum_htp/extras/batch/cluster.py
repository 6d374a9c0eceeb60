"""An executor that runs calls on the workers of an existing Dask cluster.

It has the interface of `concurrent.futures`. Dask schedules each call, and moves it to another worker if a worker is
lost. On the worker, the call runs in a separate process with limits, and with the credentials of the worker: no token
is sent.
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
from optimum_htp.extras.batch.processes import call_in_child
from optimum_htp.hubs.daemons import DaemonThreads
from optimum_htp.parsing import parse_json
from optimum_htp.version import __version__

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["ClusterExecutor"]

_CLOSING: Final = 10  # seconds for the client to close
_CONNECTING: Final = 4  # seconds to connect to the scheduler
_HOST_AND_PORT: Final = re.compile(r"(?:[\w.-]+|\[[0-9a-fA-F:.%\w]+\]):\d{1,5}")
_PACKAGE: Final = "optimum_htp"

T = TypeVar("T")


def _address_of(text: str) -> str:
    """Return the address of a scheduler, given the address or a scheduler file."""
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
    """Check that a TCP address accepts connections; Dask checks other protocols."""
    parts = urlsplit(address)
    if parts.scheme in ("tcp", "tls"):
        if parts.hostname is None or parts.port is None:
            raise ValueError("it is not tcp://HOST:PORT")
        socket.create_connection((parts.hostname, parts.port), _CONNECTING).close()


def _within(seconds: float, call: Callable[[], T]) -> T:
    """Return the result of a call; stop waiting after some seconds."""
    with DaemonThreads(1, "optimum-htp-cluster") as threads:
        future = threads.submit(call)
        wait([future], seconds)
        if not future.done():
            raise TimeoutError("no answer in time")
        return future.result()


class ClusterExecutor(Executor):
    """Runs each call on a worker of a Dask cluster, with limits in seconds and in bytes of resident memory.

    The address is that of the scheduler, such as `tcp://host:8786`, or the path of its scheduler file. The exception
    of a future is the exception of the call, or a `JobError`.
    """

    def __init__(self, address: str, *, timeout: float | None = None, memory: int | None = None) -> None:
        try:
            from distributed import Client
        except ImportError as error:
            raise MissingDependencyError(
                f"--dask requires the package distributed: `pip install distributed` ({error})."
            ) from error
        try:
            url = _address_of(address)
            _within(_CONNECTING, lambda: _connect(url))  # a Client would retry and print tracebacks
            make = functools.partial(Client, url, timeout=_CONNECTING, set_as_default=False)
            self._client: Client = _within(_CONNECTING + 1, make)
        except Exception as error:  # distributed raises many kinds if another program answers
            raise ClusterError(
                f"No Dask scheduler answers at {address}: {error or 'timeout'}. Start one with `dask scheduler`, and "
                "workers with `dask worker ADDRESS`."
            ) from error
        self._address, self._limits = address, (timeout, memory)
        try:
            self.slots = self._checked()
        except BaseException:  # Ctrl-C too: close the client
            self._client.close()
            raise
        self._executor = self._client.get_executor(pure=False)

    def _checked(self) -> int:
        """Return the number of parallel calls, if all workers have this version of the package."""
        versions = self._client.get_versions(packages=[_PACKAGE])["workers"]
        outdated = {
            name: known["packages"].get(_PACKAGE)
            for name, known in versions.items()
            if known["packages"].get(_PACKAGE) != __version__
        }
        if outdated:
            name, version = next(iter(outdated.items()))
            has = f"has optimum-htp {version}" if version else "has no optimum-htp"
            raise ClusterError(
                f"{len(outdated)} of {len(versions)} workers have another version: {name} {has}, this machine "
                f"{__version__}. Run `pip install optimum-htp=={__version__}` there."
            )
        threads: dict[str, int] = self._client.nthreads()
        return max(1, sum(threads.values()))

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Call `fn(*args)` on a worker. `fn` must be a function of a module, and its arguments picklable."""
        if kwargs:
            raise TypeError("calls on a cluster take no keyword arguments")
        outer: Future[T] = Future()
        outer.set_running_or_notify_cancel()
        try:
            inner = self._executor.submit(call_in_child, fn, args, __version__, *self._limits)
        except Exception as error:  # noqa: BLE001 - distributed raises many kinds if the scheduler is lost
            outer.set_exception(self._explained(error))
            return outer
        inner.add_done_callback(lambda done: self._pass_on(done, outer))
        return outer

    def _pass_on(self, done: Future[tuple[T, BaseException | None]], outer: Future[T]) -> None:
        try:
            value, error = done.result()
        except BaseException as lost:  # noqa: BLE001 - passed to the future
            outer.set_exception(self._explained(lost))
            return
        if error is None:
            outer.set_result(value)
        else:
            outer.set_exception(error)

    def _explained(self, error: BaseException) -> BaseException:
        from distributed.scheduler import KilledWorker

        if isinstance(error, KilledWorker):
            return JobLostError(
                "Several workers of this export were killed (usually because memory ran out). Give them more memory, "
                "and run the batch again."
            )
        if isinstance(error, (ImportError, AttributeError)):
            return JobError(
                f"A worker cannot run the export: {error}. Install the same packages there: `pip install "
                f"optimum-htp=={__version__}`."
            )
        if isinstance(error, CancelledError) or self._client.status != "running":
            return JobLostError(f"The scheduler at {self._address} is lost. Start it, and run the batch again.")
        return JobLostError(f"The cluster lost the export: {type(error).__name__}: {error}. Run the batch again.")

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls. Running calls continue on their workers; `cancel_futures` does not wait for them."""
        if self._client.status == "running":
            self._executor.shutdown(wait=wait and not cancel_futures)
        self._client.close(timeout=_CLOSING)
