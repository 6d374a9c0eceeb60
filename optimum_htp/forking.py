"""Locks and other state that a forked child process resets.

A child has only the thread that called fork. A lock that another thread held stays locked in the child forever, unless
it is replaced: https://docs.python.org/3/library/os.html#os.register_at_fork.
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
    """An object with state that belongs to threads; each forked child resets it."""

    def __init__(self) -> None:
        _all.add(self)

    @abstractmethod
    def renew(self) -> None:
        """Drop the state of threads that do not exist in this process."""


class ForkSafeLock(Renewed):
    """A lock that is free in a forked child, even if a thread held it in the parent."""

    def __init__(self, make: Callable[[], AbstractContextManager[Any]] = threading.Lock) -> None:
        super().__init__()
        self._make = make
        self._lock = make()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock during the block."""
        with self._lock:  # Release the same object, also in a child that was forked inside the block.
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
