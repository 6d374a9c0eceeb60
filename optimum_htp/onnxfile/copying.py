"""Copies files and ranges of a file. Weights pass through the kernel or a small buffer."""

from __future__ import annotations

import mmap
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from optimum_htp.onnxfile.wire import ByteWindow

__all__ = ["copy_range", "link_or_copy"]

_SMALL: Final = 1 << 20  # Bytes below which a range is copied through memory, not by the kernel.


def link_or_copy(target: Path, link: Path) -> None:
    """Link a file to another name, or copy it if links are not permitted."""
    try:
        link.symlink_to(target.absolute())
    except OSError:  # Windows without its developer mode, and filesystems without links.
        shutil.copyfile(target, link)


def copy_range(window: ByteWindow, output: BinaryIO, start: int, end: int) -> None:
    """Copy a range of the old file from its open descriptor, even if another file has replaced it.

    Large ranges are copied by the kernel if they have the same alignment in pages. With another alignment, the kernel
    takes twice the time of a copy through memory.
    """
    position = start
    if end - start > _SMALL and window.descriptor is not None:
        output.flush()
        if hasattr(os, "copy_file_range") and (output.tell() - start) % mmap.PAGESIZE == 0:
            with suppress(OSError):  # Not supported by this filesystem, or across these two: copied below.
                while position < end:
                    count = end - position
                    copied = os.copy_file_range(window.descriptor, output.fileno(), count, offset_src=position)
                    if copied == 0:
                        break
                    position += copied
        elif hasattr(os, "preadv"):
            buffer = memoryview(bytearray(_SMALL))
            while position < end:
                count = os.preadv(window.descriptor, [buffer[: end - position]], position)
                copied = os.write(output.fileno(), buffer[:count])
                if copied == 0:
                    break
                position += copied
        output.seek(0, os.SEEK_END)
    while position < end:
        data = window.read(position, min(_SMALL, end - position))
        output.write(data)
        position += len(data)
