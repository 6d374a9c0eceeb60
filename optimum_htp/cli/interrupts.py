"""Ctrl-C and kills: nothing is replaced after them, and what was done before is told.

A signal sets a flag and raises in the main thread. The flag counts even where the exception is lost on its way (some
modules of extensions swallow it while they are imported): each file is asked for right before it is replaced. Python
drops an exception that is raised in a finalizer (`__del__`): the signal is then sent again.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Final

from optimum_htp.cli.signals import send_again
from optimum_htp.onnxfile.replace_file import before_replacing

__all__ = ["Stop"]

_GRACE: Final = 1.0  # seconds for threads that are about to replace a file to do so, or to notice that they may not
_LAST_GRACE: Final = 0.8  # for those that write to remove what they wrote


class Stop:
    """Whether the user or the system wants the command to end.

    Attributes:
        code: The exit code that says which signal came.
        left_threads: Whether threads are still running that do not notice.
    """

    def __init__(self) -> None:
        self.code = 128 + signal.SIGINT
        self.left_threads = False
        self._wanted = threading.Event()
        self._holding = False
        self._listening = False

    @property
    def wanted(self) -> bool:
        """Whether a signal came."""
        return self._wanted.is_set()

    def check(self) -> None:
        """Raise `KeyboardInterrupt` where a signal came."""
        if self.wanted:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Heed signals in this block, and let no file be replaced after one."""
        before = {}
        if threading.current_thread() is threading.main_thread():
            heard = (
                number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN
            )
            before = {number: signal.signal(number, self._on_signal) for number in heard}
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
        """Let a first signal wait for the end of this block: what was done is told whole."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False

    def end(self, threads: Sequence[threading.Thread]) -> None:
        """End threads that replace files: they finish what is all but done, and give up the rest."""
        self._wanted.set()
        self.left_threads = True  # a second signal may come before they have ended
        _join(threads, _GRACE)
        for thread in threads:
            if thread.is_alive() and thread.ident is not None:  # far from replacing anything: in the middle of writing
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
