"""An executor whose calls are made by the workers of a Dask cluster that is there already.

It has the interface of `concurrent.futures`. Nothing of ours listens or schedules: a call is a task of Dask's, which
gives it to another worker where one is lost. On its worker it has a process of its own, with limits, and the worker's
own credentials: no token is sent anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future
from typing import TYPE_CHECKING, Any, Final, TypeVar

from optimum_htp.delivery.apart import call_apart
from optimum_htp.errors import ClusterError, JobError, JobLostError, MissingDependencyError
from optimum_htp.version import __version__

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["ClusterExecutor"]

_PATIENCE: Final = 10  # seconds for a scheduler to answer
_PACKAGE: Final = "optimum_htp"

T = TypeVar("T")


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
                f"Dask clusters are reached with distributed: `pip install optimum-htp[dask]` ({error})."
            ) from error
        where: dict[str, Any] = {"address": address} if "://" in address else {"scheduler_file": address}
        try:
            self._client: Client = Client(**where, timeout=_PATIENCE, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise ClusterError(
                f"No scheduler of Dask answers at {address}: {error}. Start one with `dask scheduler`, and workers "
                "with `dask worker ADDRESS`."
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
            inner = self._executor.submit(call_apart, fn, args, __version__, *self._limits)
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
                f"A worker cannot do this: {error}. Install there what is here: "
                f"`pip install optimum-htp=={__version__}`."
            )
        if isinstance(error, CancelledError) or self._client.status != "running":
            return JobLostError(f"The scheduler at {self._address} is lost. Start it, and run the batch again.")
        return JobLostError(f"The cluster lost it: {type(error).__name__}: {error}. Run the batch again.")

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. Those that run go on on their workers; nobody waits for them with `cancel_futures`."""
        if self._client.status == "running":
            self._executor.shutdown(wait=wait and not cancel_futures)
        self._client.close(timeout=_PATIENCE)
