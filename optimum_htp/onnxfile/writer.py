"""Changing what an ONNX file says about itself, without touching its graph.

The new file is the old one as a sequence of byte ranges, with some fields left out and some put in. The kernel
copies the ranges, so weights never enter memory and external data is left where it is. A file is replaced in
one step or not at all.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from optimum_htp.errors import InvalidOnnxFileError
from optimum_htp.onnxfile import reader
from optimum_htp.onnxfile.wire import LENGTH_DELIMITED, ByteWindow, encode_bytes_field, walk

__all__ = ["replaced_atomically", "rewrite_header"]

_TEXT_FIELDS: Final = {
    "producer_name": reader.PRODUCER_NAME,
    "producer_version": reader.PRODUCER_VERSION,
    "domain": reader.DOMAIN,
    "doc_string": reader.DOC_STRING,
}
_COPY_CHUNK: Final = 1 << 20

Segment = tuple[int, int] | bytes  # a range of the old file, or new bytes


def rewrite_header(
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, str],
    drop: Callable[[str], bool] = lambda key: False,
    **texts: str,
) -> None:
    """Set model-level metadata and header texts of an ONNX file; every other byte stays as it is.

    Args:
        path: The file. A link is followed; its target is replaced.
        metadata: Properties to set. Properties of the same key are replaced.
        drop: Says of a key whether a property that has it is left out.
        **texts: New values of `producer_name`, `producer_version`, `domain` and `doc_string`.

    Raises:
        OnnxFileNotFoundError: There is nothing at the path.
        InvalidOnnxFileError: What is there is not an ONNX model.
        OSError: The new file cannot be written. The old one still stands.
    """
    target = Path(path).resolve()
    headers = {_TEXT_FIELDS[name]: text.encode() for name, text in texts.items()}
    with reader.opened(target) as window:
        segments = list(_plan(window, metadata, drop, headers))
        with replaced_atomically(target) as output:
            for segment in segments:
                if isinstance(segment, bytes):
                    output.write(segment)
                else:
                    _copy_range(window.descriptor, output, *segment)


def _plan(
    window: ByteWindow,
    metadata: Mapping[str, str],
    drop: Callable[[str], bool],
    headers: Mapping[int, bytes],
) -> Iterator[Segment]:
    """List the new file's segments, new fields where their number says that they belong."""
    new = [(number, encode_bytes_field(number, text)) for number, text in sorted(headers.items())]
    new += [(reader.METADATA_PROPS, _encode_entry(key, value)) for key, value in metadata.items()]
    has_graph = False
    for part in walk(window, 0, window.size):
        has_graph |= part.number == reader.GRAPH
        while new and new[0][0] < part.number:
            yield new.pop(0)[1]
        if part.number in headers:
            continue
        if part.number == reader.METADATA_PROPS and part.wire_type == LENGTH_DELIMITED:
            key, _ = reader.entry(window, part)
            if key in metadata or drop(key):
                continue
        yield part.start, part.end
    if not has_graph:
        raise InvalidOnnxFileError(f"{window.name} is not an ONNX file: it has no graph.")
    yield from (encoded for _, encoded in new)


def _encode_entry(key: str, value: str) -> bytes:
    content = encode_bytes_field(1, key.encode()) + encode_bytes_field(2, value.encode())
    return encode_bytes_field(reader.METADATA_PROPS, content)


@contextmanager
def replaced_atomically(target: Path) -> Iterator[BinaryIO]:
    """Write a file that takes the place of `target` when the block ends well, and vanishes when it does not."""
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as output:
            yield output
            output.flush()
            os.fsync(output.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        temporary.replace(target)
    except BaseException:  # whatever stopped the block, Ctrl-C included: leave nothing behind
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise


def _copy_range(source: int, output: BinaryIO, start: int, end: int) -> None:
    output.flush()
    position = start
    if hasattr(os, "copy_file_range"):
        with suppress(OSError):  # not on this filesystem, or not across these two: copied below
            while position < end:
                copied = os.copy_file_range(source, output.fileno(), end - position, offset_src=position)
                if copied == 0:
                    break
                position += copied
        output.seek(0, os.SEEK_END)
    with open(source, "rb", closefd=False) as stream:
        stream.seek(position)
        while position < end:
            data = stream.read(min(_COPY_CHUNK, end - position))
            if not data:
                raise InvalidOnnxFileError(f"The file shrank while it was copied: byte {position} is missing.")
            output.write(data)
            position += len(data)
