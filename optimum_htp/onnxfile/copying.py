"""Files under another name, and ranges of a file: weights pass through the kernel or a small buffer."""

from __future__ import annotations

import mmap
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from optimum_htp.onnxfile.wire import ByteWindow

__all__ = ["copy_range", "link_or_copy"]

_SMALL: Final = 1 << 20  # bytes that are copied through memory rather than by the kernel


def link_or_copy(target: Path, link: Path) -> None:
    """Give a file another name; a copy of it where links may not be made."""
    try:
        link.symlink_to(target.absolute())
    except OSError:  # Windows without its developer mode, and filesystems that have no links
        shutil.copyfile(target, link)


def copy_range(window: ByteWindow, output: BinaryIO, start: int, end: int) -> None:
    """Copy a range of the old file, always from the file that was opened, whatever has taken its place since.

    Large ranges by the kernel, where they lie alike in its pages: it takes twice the time of a copy through memory
    where every page has to be put together from two.
    """
    position = start
    if end - start > _SMALL and window.descriptor is not None:
        output.flush()
        if hasattr(os, "copy_file_range") and (output.tell() - start) % mmap.PAGESIZE == 0:
            with suppress(OSError):  # not on this filesystem, or not across these two: copied below
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
