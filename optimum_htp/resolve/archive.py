"""Embedded files as text and back: a ZIP in base64. Equal files give equal text.

The text is untrusted, so the number, sizes and contents of its files are checked. Each file is unpacked in memory, up
to its announced size, and compared with its digest. Format of ZIP files:
https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from optimum_htp.errors import EmbeddedFilesError, OptimumHTPError
from optimum_htp.metadata import EmbeddedFile

__all__ = ["MOST_FILES", "described", "longest_text", "pack", "unpack"]

MOST_FILES: Final = 512
_MOST_RATIO: Final = 200  # Ratio of unpacked to packed size; tokenizers have 3 to 10.
_RATIO_FROM: Final = 1 << 20  # Bytes from which the ratio is checked.
_LARGEST_DIRECTORY: Final = 1 << 20  # Bytes.
_TIME: Final = (1980, 1, 1, 0, 0, 0)  # The earliest time in a ZIP.
_MODE: Final = 0o100644 << 16
_UNIX: Final = 3
# The record at the end of an archive, and the one before it in a ZIP64 archive.
_END: Final = struct.Struct("<4s4H2LH")
_END_SIGNATURE: Final = b"PK\x05\x06"
_ZIP64_LOCATOR: Final = b"PK\x06\x07"
_ZIP64_LOCATOR_SIZE: Final = 20
_ENCRYPTED: Final = 0x1
# zipfile raises many kinds of exceptions for a damaged ZIP.
_DAMAGE: Final = (
    *(zipfile.BadZipFile, zlib.error, struct.error),
    *(EOFError, OSError, ValueError, LookupError, RuntimeError, OverflowError),
)


def described(files: Mapping[str, bytes]) -> tuple[EmbeddedFile, ...]:
    """Return names, sizes and digests of files, sorted by name."""
    return tuple(
        EmbeddedFile(name, len(files[name]), hashlib.sha256(files[name]).hexdigest()) for name in sorted(files)
    )


def pack(files: Mapping[str, bytes]) -> str:
    """Return files as a ZIP in base64: sorted, deflated, with one fixed time."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _TIME)
            entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, _UNIX, _MODE
            archive.writestr(entry, files[name], compresslevel=9)
    return base64.b64encode(packed.getbuffer()).decode("ascii")


def longest_text(limit: int) -> int:
    """Return the maximum number of characters for files with a total of `limit` bytes."""
    return (limit + _LARGEST_DIRECTORY) * 4 // 3 + 4


def unpack(
    text: bytes, listed: Sequence[EmbeddedFile], limit: int, names: Collection[str] | None = None
) -> dict[str, bytes]:
    """Return the content of files in a text of `pack`, by name: of all files, or of those with the given names.

    The text must contain the listed files and no others, of at most `limit` bytes together.
    """
    if len(listed) > MOST_FILES:
        raise EmbeddedFilesError(f"{len(listed)} files are listed, but at most {MOST_FILES} are unpacked")
    total = sum(file.size for file in listed)
    if total > limit:
        raise EmbeddedFilesError(f"the files have {total} bytes, but at most {limit} are unpacked")
    try:
        packed = binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, TypeError) as error:
        raise EmbeddedFilesError(f"it is not base64 ({error})") from error
    if total > max(_RATIO_FROM, _MOST_RATIO * len(packed)):
        raise EmbeddedFilesError(
            f"{len(packed)} bytes would become {total}, which is more than {_MOST_RATIO} times as many"
        )
    _check_end(packed)
    with _translated(), zipfile.ZipFile(io.BytesIO(packed)) as archive:
        entries = _entries(archive, listed)
        wanted = [file for file in listed if names is None or file.name in names]
        return {file.name: _content(archive, entries[file.name], file) for file in wanted}


def _check_end(packed: bytes) -> None:
    """Reject an archive with content after its directory, or with a directory that would fill the memory."""
    end = packed[-_END.size :]
    if len(end) < _END.size or not end.startswith(_END_SIGNATURE):
        raise EmbeddedFilesError("it is not a ZIP, or has content after its end")
    *_, directory, _, comment = _END.unpack(end)
    before = packed[-_END.size - _ZIP64_LOCATOR_SIZE : -_END.size]
    if comment or directory > _LARGEST_DIRECTORY or before.startswith(_ZIP64_LOCATOR):
        raise EmbeddedFilesError("its directory is too large")


def _entries(archive: zipfile.ZipFile, listed: Sequence[EmbeddedFile]) -> dict[str, zipfile.ZipInfo]:
    """Return the entries by name, compared with the list."""
    entries = archive.infolist()
    found = {entry.orig_filename: entry for entry in entries}
    expected = {file.name for file in listed}
    if len(found) < len(entries):
        raise EmbeddedFilesError("it contains a file twice")
    if other := sorted(expected ^ found.keys()):
        where = "listed, but missing" if other[0] in expected else "present, but not listed"
        raise EmbeddedFilesError(f"{other[0]!r} is {where}")
    return found


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, file: EmbeddedFile) -> bytes:
    if entry.flag_bits & _ENCRYPTED or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise EmbeddedFilesError(f"{file.name} is encrypted, or not packed with deflate")
    with archive.open(entry) as stream:
        content = stream.read(file.size + 1)
    if len(content) != file.size or hashlib.sha256(content).hexdigest() != file.sha256:
        raise EmbeddedFilesError(f"{file.name} does not match its listed size and sha256")
    return content


@contextmanager
def _translated() -> Iterator[None]:
    """Convert errors for a damaged ZIP."""
    try:
        yield
    except OptimumHTPError:
        raise
    except _DAMAGE as error:
        raise EmbeddedFilesError(f"its ZIP is damaged ({error})") from error
