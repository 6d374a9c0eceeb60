"""Transfers by Xet, a client of its own below huggingface_hub's HTTP: it has no time-outs, and errors of its own.

A transfer that makes no progress for `OPTIMUM_HTP_TIMEOUT` is given up: it runs in a thread that nobody waits for.
huggingface_hub's progress bars are what Xet reports to, also where they are not shown.
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
_wrapper: Final[list[Any]] = []  # ours, while it is there
_lock: Final = ForkSafeLock()

T = TypeVar("T")


def is_xet_in_use() -> bool:
    """Whether huggingface_hub transfers by Xet what a Hub keeps there."""
    from huggingface_hub.utils import _runtime

    return bool(_runtime.is_xet_available())


def xet_failure(error: BaseException) -> tuple[str, bool] | None:
    """Return what Xet says of a failure, and whether it means too many requests; None for errors of others.

    Xet raises built-in exceptions and, in newer versions, its own. An OSError with a number is the disk's.
    """
    is_below = type(error).__module__.partition(".")[0] == "hf_xet" or type(error) in _BUILT_IN
    if not is_below or (isinstance(error, OSError) and error.errno is not None):
        return None
    text = " ".join(str(error).split())
    return text[:300], _TOO_MANY.search(text) is not None


class Transfers(Deadline):
    """The time for transfers of which some may be by Xet: it is counted for these only, since the last progress."""

    def __init__(self) -> None:
        super().__init__()
        self._began: float | None = None

    def by_xet(self) -> None:
        """Note that a transfer by Xet begins, or makes progress."""
        self._began = time.monotonic()

    def progressed(self) -> None:
        """Note progress of any transfer."""
        if self._began is not None:
            self.by_xet()

    @property
    def left(self) -> float:
        """Seconds that are left until a transfer is given up."""
        return self.seconds if self._began is None else self._began + self.seconds - time.monotonic()

    def run(self, calls: Sequence[Callable[[], T]], threads: int) -> Iterator[T]:
        """Make calls in threads and yield what they return, as they end.

        Raises:
            TimeoutError: A transfer by Xet makes no progress.
            BaseException: What the first call that fails raises.
        """
        with _hearing(self):
            yield from in_parallel(calls, self, threads)

    def abort(self) -> bool:
        """End Xet's transfers: threads that wait in Xet keep it from being taken down, and the process crashes."""
        if self._began is None:
            return False
        try:
            from huggingface_hub.utils._xet import abort_xet_session  # type: ignore[attr-defined]
        except ImportError:  # huggingface_hub before 2 calls hf_xet without a session
            import hf_xet

            abort_xet_session = getattr(hf_xet, "force_sigint_shutdown", None)
            if abort_xet_session is None:  # so old that nothing ends its transfers but the end of the process
                return False
        with suppress(KeyboardInterrupt):  # which hf_xet raises at its end
            abort_xet_session()
        return True

    def stalled(self) -> str:
        """Return what to say where a transfer was given up."""
        return (
            f"nothing was transferred for {self.seconds:g} seconds. {HINT}, or set {TIMEOUT_VARIABLE} to more seconds"
        )


@contextmanager
def _hearing(transfers: Transfers) -> Iterator[None]:
    """Note the progress of all of huggingface_hub's transfers while the block runs. Its bars do what they did."""
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
            if not _running and vars(tqdm).get("update") is _wrapper[0]:  # else somebody has wrapped ours: it stays
                del tqdm.update
                _wrapper.clear()


def _wrap_update(tqdm: Any) -> None:
    if _wrapper:
        return
    update = tqdm.update  # inherited, so that ours is deleted afterwards

    def heard(bar: Any, n: float | None = 1) -> Any:
        if n and _running:
            with _lock.held():
                for transfers in _running:
                    transfers.progressed()
        return update(bar, n)

    tqdm.update = heard
    _wrapper.append(heard)
