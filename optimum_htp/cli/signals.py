"""Signals whose exception was lost: Python drops what a finalizer raises (`__del__`, a callback of `weakref`)."""

from __future__ import annotations

import _thread
import signal
import threading
import time
from collections.abc import Callable
from typing import Final

__all__ = ["send_again"]

_PAUSE: Final = 0.05  # seconds for a finalizer to end


def send_again(number: int, still: Callable[[], bool] = lambda: True) -> None:
    """Send a signal to the main thread, from a new thread and a moment later.

    Args:
        number: The signal.
        still: Asked right before: whether it is wanted then.
    """
    _thread.start_new_thread(_send, (number, still))  # takes no lock that is held where a finalizer runs


def _send(number: int, still: Callable[[], bool]) -> None:
    time.sleep(_PAUSE)
    if not still():
        return
    if hasattr(signal, "pthread_kill"):  # wakes the main thread where it waits
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:
        _thread.interrupt_main(signal.Signals(number))
