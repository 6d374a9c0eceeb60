"""Ctrl-C and SIGTERM: no file is replaced after them, and finished results are reported.

A signal sets a flag and raises an exception in the main thread. Some extension modules drop this exception while they
are imported, so the flag is checked again before each file is replaced. Python drops an exception that is raised in a
finalizer (`__del__`, callbacks of `weakref`). The signal is then sent again.

optimum-cli imports this module for each of its commands.
"""

from __future__ import annotations

import _thread
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Final

__all__ = ["Stop", "send_again"]

_PAUSE: Final = 0.05  # seconds for a finalizer to end
_GRACE: Final = 1.0  # seconds for threads to finish a replacement or to notice the signal
_LAST_GRACE: Final = 0.8  # seconds for threads to remove incomplete files


class Stop:
    """State of the signals that end a command.

    Attributes:
        code: Exit code for the signal: 128 plus its number.
        left_threads: Whether threads still run after a signal.
    """

    def __init__(self) -> None:
        self.code = 128 + signal.SIGINT
        self.left_threads = False
        self._wanted = threading.Event()
        self._holding = False
        self._listening = False

    @property
    def wanted(self) -> bool:
        """Whether a signal arrived."""
        return self._wanted.is_set()

    def check(self) -> None:
        """Raise `KeyboardInterrupt` if a signal arrived."""
        if self.wanted:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handle signals in this block; after a signal no file is replaced."""
        from optimum_htp.onnxfile.replace_file import before_replacing

        before = {}
        if threading.current_thread() is threading.main_thread():
            handled = (
                number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN
            )
            before = {number: signal.signal(number, self._on_signal) for number in handled}
        token = before_replacing.set(self.check)
        hook = sys.unraisablehook

        def on_unraisable(lost: sys.UnraisableHookArgs) -> None:
            if lost.exc_type is KeyboardInterrupt and self.wanted and before:
                send_again(self.code - 128, still=lambda: self._listening)
            else:
                hook(lost)

        sys.unraisablehook = on_unraisable
        self._listening = True
        try:
            yield
        finally:
            self._listening = False
            sys.unraisablehook = hook
            before_replacing.reset(token)
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def held_back(self) -> Iterator[None]:
        """Delay a first signal until the end of this block, so that the report is complete."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False

    def end(self, threads: Sequence[threading.Thread]) -> None:
        """End threads that replace files: they finish a started replacement and skip the rest."""
        import ctypes

        self._wanted.set()
        self.left_threads = True  # a second signal can arrive before they end
        _join(threads, _GRACE)
        for thread in threads:
            if thread.is_alive() and thread.ident is not None:  # it still writes
                identity = ctypes.c_ulong(thread.ident)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(identity, ctypes.py_object(KeyboardInterrupt))
        _join(threads, _LAST_GRACE)
        self.left_threads = any(thread.is_alive() for thread in threads)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        again = self.wanted
        self._wanted.set()
        self.code = 128 + signum
        if again or not self._holding:
            raise KeyboardInterrupt


def _join(threads: Sequence[threading.Thread], seconds: float) -> None:
    until = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))


def send_again(number: int, still: Callable[[], bool] = lambda: True) -> None:
    """Send a signal to the main thread from a new thread, after a short delay, if `still` then returns true."""
    _thread.start_new_thread(_send, (number, still))  # takes no lock, so it is safe in a finalizer


def _send(number: int, still: Callable[[], bool]) -> None:
    time.sleep(_PAUSE)
    if not still():
        return
    if hasattr(signal, "pthread_kill"):  # also wakes a waiting main thread
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:
        _thread.interrupt_main(signal.Signals(number))
