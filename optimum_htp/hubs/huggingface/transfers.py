"""Transfers by Xet, a client below huggingface_hub's HTTP. It has no timeouts, and its own errors.

A transfer without progress for `OPTIMUM_HTP_TIMEOUT` is given up: it runs in a daemon thread. Xet reports progress to
huggingface_hub's progress bars, even if they are not shown.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

from optimum_htp.forking import ForkSafeLock
from optimum_htp.hubs.deadline import TIMEOUT_VARIABLE, Deadline, in_parallel

__all__ = ["HINT", "Transfers", "is_xet_in_use", "xet_failure"]

HINT: Final = "Try HF_HUB_DISABLE_XET=1"
_BUILT_IN: Final = (RuntimeError, ConnectionError, TimeoutError, PermissionError, ValueError)
_TOO_MANY: Final = re.compile(r"\b429\b|Too Many Requests")

_running: Final[set[Transfers]] = set()
_wrapper: Final[list[Any]] = []  # Our wrapper, while it is installed.
_lock: Final = ForkSafeLock()

T = TypeVar("T")


def is_xet_in_use() -> bool:
    """Whether huggingface_hub uses Xet for files that a Hub stores there."""
    from huggingface_hub.utils import _runtime

    return bool(_runtime.is_xet_available())


def xet_failure(error: BaseException) -> tuple[str, bool] | None:
    """Return Xet's message about a failure, and whether it means too many requests; None for other errors.

    Xet raises built-in exceptions, and in newer versions its own. An OSError with an error number is from the disk.
    """
    is_below = type(error).__module__.partition(".")[0] == "hf_xet" or type(error) in _BUILT_IN
    if not is_below or (isinstance(error, OSError) and error.errno is not None):
        return None
    text = " ".join(str(error).split())
    return text[:300], _TOO_MANY.search(text) is not None


class Transfers(Deadline):
    """The time limit of transfers. For transfers by Xet, it counts from the last progress."""

    def __init__(self) -> None:
        super().__init__()
        self._began: float | None = None

    def by_xet(self) -> None:
        """Record that a transfer by Xet begins or makes progress."""
        self._began = time.monotonic()

    def progressed(self) -> None:
        """Record progress of any transfer."""
        if self._began is not None:
            self.by_xet()

    @property
    def left(self) -> float:
        """Remaining seconds until a transfer is given up."""
        return self.seconds if self._began is None else self._began + self.seconds - time.monotonic()

    def run(self, calls: Sequence[Callable[[], T]], threads: int) -> Iterator[T]:
        """Call functions in threads, and yield their results as they end; see `in_parallel`."""
        with _hearing(self):
            yield from in_parallel(calls, self, threads)

    def abort(self) -> bool:
        """End Xet's transfers. Threads that wait in Xet prevent its shutdown, and the process would crash."""
        if self._began is None:
            return False
        try:
            from huggingface_hub.utils._xet import abort_xet_session  # type: ignore[attr-defined]
        except ImportError:  # huggingface_hub before 2 calls hf_xet without a session.
            import hf_xet

            abort_xet_session = getattr(hf_xet, "force_sigint_shutdown", None)
            if abort_xet_session is None:  # In old versions, only the end of the process ends transfers.
                return False
        with suppress(KeyboardInterrupt):  # hf_xet raises it at its end.
            abort_xet_session()
        return True

    def stalled(self) -> str:
        """Return the message for a transfer that was given up."""
        return (
            f"no bytes were transferred for {self.seconds:g} seconds. {HINT}, or set {TIMEOUT_VARIABLE} to more "
            "seconds"
        )


@contextmanager
def _hearing(transfers: Transfers) -> Iterator[None]:
    """Record the progress of all transfers of huggingface_hub while the block runs. Its bars work as before."""
    from huggingface_hub.utils import tqdm

    with _lock.held():
        if not _running:
            _wrap_update(tqdm)
        _running.add(transfers)
    try:
        yield
    finally:
        with _lock.held():
            _running.discard(transfers)
            # Otherwise, other code has wrapped our wrapper, so it stays.
            if not _running and vars(tqdm).get("update") is _wrapper[0]:
                del tqdm.update
                _wrapper.clear()


def _wrap_update(tqdm: Any) -> None:
    if _wrapper:
        return
    update = tqdm.update  # It is inherited, so our attribute is deleted afterwards.

    def heard(bar: Any, n: float | None = 1) -> Any:
        if n and _running:
            with _lock.held():
                for transfers in _running:
                    transfers.progressed()
        return update(bar, n)

    tqdm.update = heard
    _wrapper.append(heard)
