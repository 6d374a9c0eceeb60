"""One process or thread at a time in a folder, with nothing left behind when it is killed.

The lock is the kernel's, on the folder itself: no file that would lie there afterwards, and one that ends with its
process. Where a folder cannot be locked (Windows, NFS), it is a lock of `filelock` on a hidden file in it; that file
may stay, empty, and means nothing by itself.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

__all__ = ["LOCK_FILE", "file_lock", "folder_lock"]

LOCK_FILE: Final = ".optimum-htp.lock"
_POLL: Final = 0.01  # seconds


@contextmanager
def folder_lock(folder: Path, timeout: float = 60.0) -> Iterator[None]:
    """Hold the lock of a folder that exists.

    Args:
        folder: The folder. A link to one is followed.
        timeout: Seconds to wait while another holds it; 0 to try once.

    Raises:
        TimeoutError: Another still holds it.
        OSError: The folder is not there, or cannot be locked in any way.
    """
    descriptor = _lock_itself(folder, timeout)
    if descriptor is None:
        with file_lock(folder, timeout):
            yield
        return
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def file_lock(folder: Path, timeout: float) -> Iterator[None]:
    """Hold a lock on a file in the folder: what `folder_lock` does where folders cannot be locked."""
    from filelock import FileLock, SoftFileLock, Timeout

    lock = FileLock(folder / LOCK_FILE)
    try:
        try:
            lock.acquire(timeout=timeout)
        except (NotImplementedError, OSError) as error:
            if isinstance(error, TimeoutError) or not folder.is_dir():
                raise
            lock = SoftFileLock(folder / LOCK_FILE)  # a filesystem without locks: the file's existence is the lock
            lock.acquire(timeout=timeout)
    except Timeout as error:
        raise TimeoutError(
            f"another process holds {folder / LOCK_FILE}; delete it if no export into {folder} is running"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _lock_itself(folder: Path, timeout: float) -> int | None:
    """Return a descriptor that holds the folder's lock till it is closed; None where folders have none."""
    if sys.platform == "win32":
        return None
    import fcntl

    deadline = time.monotonic() + timeout
    while True:
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except PermissionError:
            return None  # it may be written to and not be read
        locked = False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it may have moved the folder away, and another stands in its place.
            locked = os.path.samestat(os.fstat(descriptor), os.stat(folder))  # noqa: PTH116
            if locked:
                return descriptor
        except BlockingIOError:
            pass
        except FileNotFoundError:
            raise
        except OSError:
            return None
        finally:
            if not locked:
                os.close(descriptor)
        if time.monotonic() >= deadline:
            raise TimeoutError(f"another process has been writing to {folder} for {timeout:.0f} seconds")
        time.sleep(_POLL)
