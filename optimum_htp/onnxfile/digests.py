"""Digests of files, read in pieces: they may be larger than the memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

__all__ = ["sha256_of", "sha256_of_file"]

_CHUNK: Final = 1 << 20


def sha256_of(stream: IO[bytes], progress: Callable[[int], object] | None = None) -> str:
    """Return the sha256 of what is left of a stream, in hexadecimal.

    Args:
        stream: The stream.
        progress: Called with the number of bytes of each piece that was read.

    Raises:
        OSError: It cannot be read.
    """
    digest = hashlib.sha256()
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
        if progress is not None:
            progress(len(chunk))
    return digest.hexdigest()


def sha256_of_file(path: Path, progress: Callable[[int], object] | None = None) -> str:
    """Return the sha256 of a file, as `sha256_of` does.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return sha256_of(file, progress)
