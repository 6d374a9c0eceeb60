"""Locks and other state that a forked child renews.

A child has only the thread that forked. A lock that another thread held stays locked in the child for ever, unless it
is replaced there: https://docs.python.org/3/library/os.html#os.register_at_fork.
"""

from __future__ import annotations

import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

__all__ = ["ForkSafeLock", "Renewed"]


class Renewed(ABC):
    """Something that has state of threads; every forked child renews it."""

    def __init__(self) -> None:
        _all.add(self)

    @abstractmethod
    def renew(self) -> None:
        """Drop the state of threads that do not exist in this process."""


class ForkSafeLock(Renewed):
    """A lock that is free in a forked child, whichever thread held it in the parent.

    Args:
        make: Makes the lock: `threading.Lock` or `threading.RLock`.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[Any]] = threading.Lock) -> None:
        super().__init__()
        self._make = make
        self._lock = make()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock during the block."""
        with self._lock:  # the same object is released, also in a child that was forked in the block
            yield

    def renew(self) -> None:
        """Replace the lock."""
        self._lock = self._make()


_all: Final[weakref.WeakSet[Renewed]] = weakref.WeakSet()


def _renew_all() -> None:
    for one in _all:
        one.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
