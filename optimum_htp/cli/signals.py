"""Sends a signal again, because Python drops exceptions of finalizers (`__del__`, callbacks of `weakref`)."""

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
    """Send a signal to the main thread from a new thread, after a short delay.

    Args:
        number: The signal.
        still: Called before sending: whether the signal is still required.
    """
    _thread.start_new_thread(_send, (number, still))  # takes no lock, so it is safe in a finalizer


def _send(number: int, still: Callable[[], bool]) -> None:
    time.sleep(_PAUSE)
    if not still():
        return
    if hasattr(signal, "pthread_kill"):  # also wakes a waiting main thread
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:
        _thread.interrupt_main(signal.Signals(number))
