"""Locks of folders and files for processes and threads. Nothing is left after a kill.

The lock is the kernel's, on the folder or file itself: no further file is written, and the lock ends with its
process. If this is not supported (Windows, some network filesystems), a lock of `filelock` on a hidden file in the
folder is used. That file may stay, empty.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

if sys.platform != "win32":
    import fcntl

__all__ = ["LOCK_FILE", "HeldLock", "file_lock", "folder_lock", "locked_for_replacing"]

LOCK_FILE: Final = ".optimum-htp.lock"
_POLL: Final = 0.01  # Seconds.


@dataclass(eq=False)
class HeldLock:
    """A descriptor that may hold a lock.

    A forked child inherits the descriptor, and the lock is held as long as any copy is open. So the child closes its
    copies, and the lock is released explicitly here.
    """

    descriptor: int

    def __post_init__(self) -> None:
        _held.add(self)

    def acquire(self) -> bool:
        """Try once to get the lock; False if another process has it. OSError if the filesystem has no such locks."""
        if sys.platform == "win32":
            raise OSError("Windows has no such locks")
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Release the lock and close the descriptor. Does nothing in a forked child."""
        descriptor, self.descriptor = self.descriptor, -1
        _held.discard(self)
        if descriptor < 0:
            return
        if sys.platform != "win32":
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)

    def __enter__(self) -> HeldLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_held: Final[set[HeldLock]] = set()


def _close_copies() -> None:
    """Close the descriptors that a forked child inherited. Closing a copy does not release the parent's lock."""
    for lock in _held:
        with suppress(OSError):
            os.close(lock.descriptor)
        lock.descriptor = -1
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_copies)


@contextmanager
def folder_lock(folder: Path, timeout: float = 60.0) -> Iterator[None]:
    """Hold the lock of an existing folder, or of the target of a link.

    TimeoutError if another process still holds it after `timeout` seconds; 0 is to try once.
    """
    lock = None if sys.platform == "win32" else _locked(folder, os.O_DIRECTORY, timeout)
    with lock or file_lock(folder, timeout):
        yield


@contextmanager
def locked_for_replacing(path: Path, timeout: float = 60.0, *, required: bool = True) -> Iterator[None]:
    """Hold the lock of a file while it is compared and another file is renamed to its path.

    The lock belongs to the file that is at the path when the block begins. Every writer that replaces it holds that
    lock. So two writers that read the same file take turns, and the second one finds a changed file. If there is no
    file, or this user cannot read it, nothing is locked.

    After `timeout` seconds, the block runs without the lock if it is not required; otherwise TimeoutError.
    """
    lock: AbstractContextManager[object] | None = None
    with suppress(FileNotFoundError, *(() if required else (TimeoutError,))):
        if sys.platform != "win32":
            lock = _locked(path, os.O_NOFOLLOW | os.O_NONBLOCK, timeout)
        if lock is None and path.is_file() and not path.is_symlink() and os.access(path, os.R_OK):
            lock = file_lock(path.parent, timeout)
    with lock or nullcontext():
        yield


@contextmanager
def file_lock(folder: Path, timeout: float) -> Iterator[None]:
    """Hold a lock on a file in the folder, for systems that cannot lock folders and files themselves."""
    from filelock import FileLock, SoftFileLock, Timeout

    place = folder / LOCK_FILE
    if place.is_symlink():  # FileLock would empty the link's target.
        raise OSError(f"{place} is a link and cannot be used as a lock. Delete it")
    lock = FileLock(place)
    try:
        try:
            lock.acquire(timeout=timeout)
        except (NotImplementedError, OSError) as error:
            if isinstance(error, TimeoutError) or not folder.is_dir():
                raise
            lock = SoftFileLock(place)  # A filesystem without locks: the existence of the file is the lock.
            lock.acquire(timeout=timeout)
    except Timeout as error:
        raise TimeoutError(
            f"another process holds {place}; delete it if no other command is writing to {folder}"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _locked(path: Path, flags: int, timeout: float) -> HeldLock | None:
    """Return the lock of a folder or file; None if it cannot be locked itself."""
    deadline = time.monotonic() + timeout
    access = os.O_RDONLY
    while True:
        try:
            lock = HeldLock(os.open(path, access | flags))
        except PermissionError:
            return None  # The user can write it, but not read it.
        except OSError as error:
            if error.errno == errno.ELOOP and flags & os.O_NOFOLLOW:
                return None  # A link, which is replaced itself.
            raise
        locked = False
        try:
            # The holder may have moved it away, and another file has its name.
            locked = lock.acquire() and os.path.samestat(os.fstat(lock.descriptor), os.stat(path))  # noqa: PTH116
            if locked:
                return lock
        except FileNotFoundError:
            raise
        except OSError:
            if access == os.O_RDWR or flags & os.O_DIRECTORY:
                return None
            access = os.O_RDWR  # NFS locks only files that are open for writing.
            continue
        finally:
            if not locked:
                lock.close()
        if time.monotonic() >= deadline:
            raise TimeoutError(f"another process has held the lock of {path} for {timeout:.0f} seconds")
        time.sleep(_POLL)
