"""Digests of files, read in pieces: an export's files may be larger than the memory."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import IO, Final

__all__ = ["sha256_of", "sha256_of_file"]

_CHUNK: Final = 1 << 20


def sha256_of(stream: IO[bytes]) -> str:
    """Return the sha256 of what is left of a stream, in hexadecimal.

    Raises:
        OSError: It cannot be read.
    """
    digest = hashlib.sha256()
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def sha256_of_file(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return sha256_of(file)
