"""Replaces a file in one step: a reader finds the old file or the new one, never a part of either.

While it is written, the new file has no name if the system supports this (Linux: `O_TMPFILE`), so a killed process
leaves nothing behind. On other systems it has a hidden name next to the old one, and is locked; leftovers of ended
processes are removed when the same file is written again. Its content is on the disk before it replaces the old file.
The folder is not synced, so after a power failure either file may exist, and is complete.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO, Final

from optimum_htp.masking import get_logger
from optimum_htp.onnxfile.folder_lock import HeldLock

__all__ = ["before_replacing", "identity_of", "replaced_atomically"]

logger = get_logger(__name__)

_BUFFER: Final = 1 << 20  # Bytes.
_DESCRIPTORS: Final = "/proc/self/fd"
_LONGEST: Final = 80  # Bytes of a name that a temporary name repeats; eCryptfs allows 143 in total.

_naming: Final[dict[int, bool]] = {}  # By filesystem.

before_replacing: Final[ContextVar[Callable[[], None] | None]] = ContextVar(
    "optimum_htp_before_replacing", default=None
)
"""Called directly before a new file replaces an old one. An exception keeps the old file."""


def identity_of(status: os.stat_result) -> tuple[int, ...]:
    """Return values that change when a file is replaced or written to."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@contextmanager
def replaced_atomically(
    target: Path, like: Path | None = None, replacing: AbstractContextManager[object] | None = None
) -> Iterator[BinaryIO]:
    """Write a file that replaces `target` when the block ends without an exception; otherwise it is removed.

    If `target` exists, the new file gets its permissions and, if permitted, owner and extended attributes. Its other
    names (hard links) keep the old content. A new `target` gets the permissions of the file `like`.

    `replacing`, such as a lock, is entered directly before the replacement and left after it. An exception in it
    keeps the old file.
    """
    _clear_leftovers(target)
    lock, name = _created(target, 0o600 if like is not None or target.exists() else 0o666)
    descriptor = lock.descriptor
    try:
        with os.fdopen(descriptor, "wb", buffering=_BUFFER, closefd=False) as output:
            yield output
        if target.exists():
            _resemble(descriptor, target)
        elif like is not None and hasattr(os, "fchmod"):
            os.fchmod(descriptor, stat.S_IMODE(like.stat().st_mode))
        os.fsync(descriptor)
        with replacing or nullcontext():
            if (question := before_replacing.get()) is not None:
                question()
            if name is None:
                name = _named(descriptor, target)
            elif os.name == "nt":  # Windows cannot rename an open file.
                lock.close()
            name.replace(target)
            name = None
    finally:  # Remove the new file after any exception, including Ctrl-C.
        lock.close()
        if name is not None:
            with suppress(FileNotFoundError):
                name.unlink()


def _created(target: Path, mode: int) -> tuple[HeldLock, Path | None]:
    """Open a new file in the target's folder and lock it; return its name if it has one.

    `mode` are its permissions until it has its content, less the umask. Other users must not be able to read a private
    model while it is written.
    """
    if hasattr(os, "O_TMPFILE") and Path(_DESCRIPTORS).is_dir():
        with suppress(OSError):  # Not supported by this filesystem.
            if _takes_names(target):
                return _locked(os.open(target.parent, os.O_TMPFILE | os.O_RDWR, mode)), None
    name = _temporary_name(target)
    return _locked(os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0), mode)), name


def _takes_names(target: Path) -> bool:
    """Whether a file without a name can get one next to a target. Android and some containers forbid this."""
    device = target.parent.stat().st_dev
    if device not in _naming:
        probe = os.open(target.parent, os.O_TMPFILE | os.O_RDWR, 0o600)
        try:
            _named(probe, target).unlink()
            _naming[device] = True
        except OSError:
            _naming[device] = False
        finally:
            os.close(probe)
    return _naming[device]


def _named(descriptor: int, target: Path) -> Path:
    """Give a name to a file without one, so that it can be renamed. A link cannot replace an existing file."""
    name = _temporary_name(target)
    folder = os.open(_DESCRIPTORS, os.O_RDONLY)
    try:  # os.link follows links only with a folder's descriptor.
        os.link(str(descriptor), name, src_dir_fd=folder)
    finally:
        os.close(folder)
    return name


def _temporary_name(target: Path) -> Path:
    return target.with_name(f".{_beginning(target)}.{secrets.token_hex(6)}.tmp")


def _beginning(target: Path) -> str:
    """Return the start of a name. Names are limited in bytes; an incomplete character is removed."""
    return target.name.encode(errors="ignore")[:_LONGEST].decode(errors="ignore")


def _locked(descriptor: int) -> HeldLock:
    """Lock a new file while it is open, if the system supports such locks."""
    lock = HeldLock(descriptor)
    _is_unused(lock)
    return lock


def _is_unused(lock: HeldLock) -> bool:
    """Lock a file; False if another process may have it."""
    try:
        return lock.acquire()
    except OSError:
        return os.name == "nt"  # Windows does not delete an open file.


def _clear_leftovers(target: Path) -> None:
    """Remove what ended processes left next to this file."""
    pattern = re.compile(rf"\.{re.escape(_beginning(target))}\.[0-9a-f]{{12}}\.tmp")
    with suppress(OSError):  # If the folder cannot be read or does not exist, creating the file reports it.
        for entry in os.scandir(target.parent):
            if pattern.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with suppress(OSError):  # It belongs to another user, or another process was faster.
                    _remove_unused(Path(entry.path))


def _remove_unused(path: Path) -> None:
    with HeldLock(os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))) as lock:
        unused = _is_unused(lock)
    if unused:
        path.unlink()


def _resemble(descriptor: int, model: Path) -> None:
    """Give a new file the permissions, the owner and the extended attributes of the file that it replaces."""
    status = model.stat()
    lost = []
    if hasattr(os, "fchown"):
        mine = os.fstat(descriptor)
        if (mine.st_uid, mine.st_gid) != (status.st_uid, status.st_gid):
            try:
                os.fchown(descriptor, status.st_uid, status.st_gid)
            except OSError:
                lost.append(f"its owner {status.st_uid}:{status.st_gid}")
        os.fchmod(descriptor, stat.S_IMODE(status.st_mode))  # After the owner, because changing it removes some bits.
    if hasattr(os, "listxattr"):
        with suppress(OSError):  # Not supported by this filesystem.
            for attribute in os.listxattr(model):
                try:
                    os.setxattr(descriptor, attribute, os.getxattr(model, attribute))
                except OSError:
                    lost.append(f"the attribute {attribute}")
    if status.st_nlink > 1:
        lost.append(f"{status.st_nlink - 1} other names (hard links), which keep the old content")
    if lost:
        logger.warning("%s is replaced, and loses %s.", model, ", ".join(lost))
