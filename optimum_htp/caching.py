"""A cache in memory: a bounded, thread-safe mapping that creates missing values.

Keys contain commits, and the content of a commit never changes, so no value becomes outdated.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar
from weakref import WeakSet

from optimum_htp.forking import Renewed

__all__ = ["LRUCache", "forget"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


_memories: Final[WeakSet[LRUCache[Any, Any]]] = WeakSet()


def forget() -> None:
    """Empty all caches of this process. Files on disk stay."""
    for memory in list(_memories):
        memory.clear()


@dataclass
class _Turn:
    """The lock for creating one value, and the number of threads that create it or wait for it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    threads: int = 0


class LRUCache(Renewed, Generic[K, V]):
    """Keeps up to `max_items` values by key, and removes the least recently used ones."""

    def __init__(self, max_items: int) -> None:
        super().__init__()
        self._max_items = max_items
        self._items: OrderedDict[K, V] = OrderedDict()
        self._making: dict[K, _Turn] = {}
        self._lock = threading.Lock()
        _memories.add(self)

    def get_or_make(
        self, key: K, make: Callable[[], V], *, anew: bool = False, valid: Callable[[V], bool] = lambda value: True
    ) -> V:
        """Return the value of a key. Threads that need the same value wait for the thread that creates it.

        An existing value is created again if `anew` is set, or if it is not `valid` any more. If `make` fails, nothing
        is kept.
        """
        if not anew and (found := self._find(key)) and valid(found[0]):
            return found[0]
        with self._turn(key):
            if not anew and (found := self._find(key)) and valid(found[0]):
                return found[0]
            value = make()
            with self._lock:
                self._items[key] = value
                self._items.move_to_end(key)
                while len(self._items) > self._max_items:
                    self._items.popitem(last=False)
            return value

    def clear(self) -> None:
        """Remove all values."""
        with self._lock:
            self._items.clear()

    def __len__(self) -> int:
        return len(self._items)

    @contextmanager
    def _turn(self, key: K) -> Iterator[None]:
        """Let one thread at a time create the value of a key. The last waiting thread removes the lock."""
        with self._lock:
            turn = self._making.setdefault(key, _Turn())
            turn.threads += 1
        try:
            with turn.lock:
                yield
        finally:
            with self._lock:
                turn.threads -= 1
                if not turn.threads and self._making.get(key) is turn:
                    del self._making[key]

    def _find(self, key: K) -> tuple[V] | None:
        with self._lock:
            if key not in self._items:
                return None
            self._items.move_to_end(key)
            return (self._items[key],)

    def renew(self) -> None:
        """Reset the locks: a forked child does not have the other threads. Values are kept."""
        self._making = {}
        self._lock = threading.Lock()
