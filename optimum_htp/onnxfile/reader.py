"""Reads the metadata of an ONNX file, without its weights and without importing onnx.

`read_header` walks the top level of the ModelProto and skips the graph by its length, so its cost does not depend on
the size of the file. `read_signature` also walks the graph, to the inputs and outputs.
Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3
"""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from optimum_htp.errors import InvalidOnnxFileError, OnnxFileNotFoundError, OnnxReadError
from optimum_htp.onnxfile.tensors import TensorSpec, integer, tensor_spec
from optimum_htp.onnxfile.wire import LENGTH_DELIMITED, VARINT, ByteWindow, Field, walk

__all__ = ["ModelHeader", "is_archive", "opened", "read_archive", "read_header", "read_metadata", "read_signature"]

# ModelProto
IR_VERSION: Final = 1
PRODUCER_NAME: Final = 2
PRODUCER_VERSION: Final = 3
DOMAIN: Final = 4
MODEL_VERSION: Final = 5
DOC_STRING: Final = 6
GRAPH: Final = 7
OPSET_IMPORT: Final = 8
METADATA_PROPS: Final = 14
TEXT_FIELDS: Final = {
    "producer_name": PRODUCER_NAME,
    "producer_version": PRODUCER_VERSION,
    "domain": DOMAIN,
    "doc_string": DOC_STRING,
}
# GraphProto
GRAPH_INPUT: Final = 11
GRAPH_OUTPUT: Final = 12

_SHORT: Final = 258  # Maximum bytes of a StringStringEntryProto whose two lengths are one byte each.
_KEY: Final = 1 << 3 | LENGTH_DELIMITED
_VALUE: Final = 2 << 3 | LENGTH_DELIMITED


@dataclass(frozen=True)
class ModelHeader:
    """The fields of a ModelProto without its graph.

    `metadata` contains each key once: of repeated keys the last counts, as in ONNX Runtime. Archives are not included;
    `archives` contains the number of bytes of each. `texts` contains the existing text fields, including empty ones.
    """

    ir_version: int = 0
    producer_name: str = ""
    producer_version: str = ""
    domain: str = ""
    model_version: int = 0
    doc_string: str = ""
    opsets: dict[str, int] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    archives: dict[str, int] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


def is_archive(key: str) -> bool:
    """Whether the value of a property is an archive in base64, by its key. Archives are read only when needed."""
    return key.startswith("hf_") and key.endswith("_zip")


@contextmanager
def opened(path: str | os.PathLike[str], chunk: int = 4096) -> Iterator[ByteWindow]:
    """Open an ONNX file for reading in pieces.

    Raises:
        OnnxFileNotFoundError: The path does not exist.
        OnnxReadError: The file cannot be read.
        InvalidOnnxFileError: The path is a folder, or the file is empty.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise OnnxFileNotFoundError(f"There is no ONNX file at {path}. Check the path.") from error
    except (OSError, ValueError) as error:  # An invalid name, links in a loop, or a folder without permission.
        raise _unreadable(path, error) from error
    if stat.S_ISDIR(mode):
        raise InvalidOnnxFileError(f"{path} is a folder, not an ONNX file. Pass a file inside it.")
    if not stat.S_ISREG(mode):  # Opening a pipe would wait for a writer.
        raise InvalidOnnxFileError(f"{path} is not a regular file. Name an ONNX file.")
    try:
        opened_file = path.open("rb", buffering=0)
    except FileNotFoundError as error:  # It was removed in the meantime.
        raise OnnxFileNotFoundError(f"There is no ONNX file at {path}. Check the path.") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    with opened_file as stream:
        size = os.fstat(stream.fileno()).st_size
        if size == 0:
            raise InvalidOnnxFileError(f"{path} is empty. Download or export it again.")
        fetch = functools.partial(_read_range, stream.fileno())
        yield ByteWindow(fetch, str(path), size, chunk, stream.fileno())


def _unreadable(path: Path, error: Exception) -> OnnxReadError:
    reason = getattr(error, "strerror", None) or error
    return OnnxReadError(f"{path} cannot be opened: {reason}. Check its name and permissions.")


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the model-level metadata properties of an ONNX file. Reads a few kilobytes."""
    return read_header(path).metadata


def read_header(path: str | os.PathLike[str]) -> ModelHeader:
    """Return all fields of an ONNX file's ModelProto except the graph. Reads a few kilobytes."""
    with opened(path) as window:
        return header_of(window)


def header_of(window: ByteWindow) -> ModelHeader:
    """Return all fields of a ModelProto except the graph."""
    window.begin_pass()
    numbers: dict[int, int] = {}
    texts: dict[int, str] = {}
    opsets: dict[str, int] = {}
    metadata: dict[str, str] = {}
    archives: dict[str, int] = {}
    has_graph = False
    for part in walk(window, 0, window.size):
        if part.wire_type == VARINT:
            numbers[part.number] = integer(window, part)
        elif part.wire_type != LENGTH_DELIMITED:
            continue
        elif part.number == GRAPH:
            has_graph = True
        elif part.number == METADATA_PROPS:
            key, text = property_at(window, part)
            if is_archive(key):
                archives[key] = 0 if text is None else text.end - text.payload
            else:
                metadata[key] = "" if text is None else window.text(text)
        elif part.number == OPSET_IMPORT:
            domain, version = _opset(window, part)
            opsets[domain] = version
        elif part.number in TEXT_FIELDS.values():
            texts[part.number] = window.text(part)
    if not has_graph:
        raise window.invalid("it has no graph")
    return ModelHeader(
        ir_version=numbers.get(IR_VERSION, 0),
        producer_name=texts.get(PRODUCER_NAME, ""),
        producer_version=texts.get(PRODUCER_VERSION, ""),
        domain=texts.get(DOMAIN, ""),
        model_version=numbers.get(MODEL_VERSION, 0),
        doc_string=texts.get(DOC_STRING, ""),
        opsets=opsets,
        metadata=metadata,
        archives=archives,
        texts={name: texts[number] for name, number in TEXT_FIELDS.items() if number in texts},
    )


def read_archive(path: str | os.PathLike[str], key: str, limit: int) -> bytes | None:
    """Return the text of a property of a file whose value is an archive; see `archive_of`."""
    with opened(path) as window:
        return archive_of(window, key, limit)


def archive_of(window: ByteWindow, key: str, limit: int) -> bytes | None:
    """Return the text of a property whose value is an archive, as it is in the file; None if there is no such key.

    InvalidOnnxFileError if the text has more than `limit` bytes.
    """
    window.begin_pass()
    found: Field | None = None
    for part in walk(window, 0, window.size):
        if part.number == METADATA_PROPS and part.wire_type == LENGTH_DELIMITED:
            name, text = property_at(window, part)
            if name == key:
                found = text or Field(2, LENGTH_DELIMITED, part.end, part.end, part.end)
    if found is None:
        return None
    length = found.end - found.payload
    if length > limit:
        raise window.invalid(f"its property {key} has {length} bytes, but at most {limit} are read")
    return window.read(found.payload, length)


def read_signature(path: str | os.PathLike[str]) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return a model's inputs and outputs, without reading its nodes and weights.

    Inputs include initializers that the graph lists as inputs too (IR version 3).
    """
    sides: dict[int, list[TensorSpec]] = {GRAPH_INPUT: [], GRAPH_OUTPUT: []}
    with opened(path, chunk=1 << 16) as window:
        for part in walk(window, 0, window.size):
            if part.number == GRAPH and part.wire_type == LENGTH_DELIMITED:
                for inner in walk(window, part.payload, part.end):
                    if inner.number in sides and inner.wire_type == LENGTH_DELIMITED:
                        sides[inner.number].append(tensor_spec(window, inner))
    return tuple(sides[GRAPH_INPUT]), tuple(sides[GRAPH_OUTPUT])


def entry(window: ByteWindow, part: Field) -> tuple[str, str]:
    """Decode a StringStringEntryProto: `key` is field 1, `value` field 2."""
    length = part.end - part.payload
    if length <= _SHORT and (known := short_entry(window.read(part.payload, length))) is not None:
        window.count_text(length)
        return known
    key, text = property_at(window, part)
    return key, "" if text is None else window.text(text)


def short_entry(content: bytes) -> tuple[str, str] | None:
    """Decode an entry in its usual form; neighbouring nodes have the same. None for an entry of another form."""
    return _short_entry(content) if len(content) <= _SHORT else None


@functools.lru_cache(1 << 12)
def _short_entry(content: bytes) -> tuple[str, str] | None:
    try:
        behind = 2 + content[1]
        if content[0] != _KEY or content[behind] != _VALUE or content[1] | content[behind + 1] > 0x7F:
            return None
        start = behind + 2
        if start + content[behind + 1] != len(content):
            return None
        return content[2:behind].decode("utf-8"), content[start:].decode("utf-8")
    except (IndexError, UnicodeDecodeError):
        return None


def property_at(window: ByteWindow, part: Field) -> tuple[str, Field | None]:
    """Decode the key of a StringStringEntryProto, and return the field of its value; None if it has no value."""
    texts: dict[int, Field] = {}
    for inner in walk(window, part.payload, part.end):
        if inner.number in (1, 2) and inner.wire_type == LENGTH_DELIMITED:
            texts[inner.number] = inner
    return window.text(texts[1]) if 1 in texts else "", texts.get(2)


def _opset(window: ByteWindow, part: Field) -> tuple[str, int]:
    domain, version = "", 0
    for inner in walk(window, part.payload, part.end):
        if inner.number == 1 and inner.wire_type == LENGTH_DELIMITED:
            domain = window.text(inner)
        elif inner.number == 2 and inner.wire_type == VARINT:
            version = integer(window, inner)
    return domain, version


def _read_range(descriptor: int, start: int, length: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(descriptor, length, start)
    os.lseek(descriptor, start, os.SEEK_SET)  # Windows
    return os.read(descriptor, length)
