"""A model without its large tensors: the ModelProto in memory, with references to the tensors' data in the file.

ONNX lets tensors have their data in another file, by `location`, `offset` and `length`. This may also be the model's
own file. So a runtime that loads such a model can map the weights instead of parsing them.
Source: https://github.com/onnx/onnx/blob/main/docs/ExternalData.md

`without_tensors` returns a ModelProto of the size of its nodes, which onnx can parse and infer shapes on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from optimum_htp.onnxfile.reader import DOC_STRING, GRAPH, METADATA_PROPS, opened
from optimum_htp.onnxfile.replace_file import identity_of
from optimum_htp.onnxfile.structure import MAX_DEPTH, MESSAGES
from optimum_htp.onnxfile.wire import (
    LENGTH_DELIMITED,
    VARINT,
    ByteWindow,
    Field,
    encode_bytes_field,
    encode_varint,
    walk,
)

__all__ = ["ModelWithoutWeights", "raw_data_of", "read_without_weights", "reference", "without_tensors"]

_CHUNK: Final = 1 << 16
_SMALL: Final = 4096  # Bytes. Tensors that shape inference needs are smaller, and stay in the model.

# Only initializers, of the graph and of subgraphs: runtimes do not read attributes of a node from other files.
_CHILDREN: Final[Mapping[str, Mapping[int, str]]] = {
    "model": {GRAPH: "graph"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {6: "graph", 11: "graph"},
}
# TensorProto
_DATA_TYPE: Final = 2
_NAMED: Final = frozenset(
    {1, _DATA_TYPE, 8, 9, 12, 16}
)  # dims, data_type, name, raw_data, doc_string, metadata_props.
_RAW_DATA: Final = 9
_EXTERNAL_DATA: Final = 13
_DATA_LOCATION: Final = 14
_EXTERNAL: Final = encode_varint(_DATA_LOCATION << 3 | VARINT) + encode_varint(1)
# The key of every tensor with external data: the byte before it is the last one of its length.
_LOCATION: Final = re.compile(rb"[\x00\x08]location")
_STRING: Final = bytes([_DATA_TYPE << 3 | VARINT, 8])

_Segment = tuple[int, int] | bytes


@dataclass(frozen=True)
class ModelWithoutWeights:
    """A ModelProto whose large initializers are external data in the file that it was read from.

    Attributes:
        content: The serialized ModelProto. Locations are relative to the file's folder, so that no other part of the
            model can name a file outside it.
        file: The file, with links resolved: some runtimes reject linked data.
        seen: Values that identify the file, to detect a replacement.
    """

    content: bytes
    file: Path
    seen: tuple[int, ...]

    def is_current(self) -> bool:
        """Whether the file at the path is still the one that was read."""
        try:
            return identity_of(self.file.stat()) == self.seen
        except OSError:
            return False


class _HasExternalData(Exception):
    """The model already has external data."""


def read_without_weights(path: str | os.PathLike[str], *, read_ahead: bool = True) -> ModelWithoutWeights | None:
    """Return a model without its large tensors; None if there are none, or if the model has external data.

    Args:
        path: The file.
        read_ahead: Whether to ask the kernel to read the whole file in the background.

    Raises:
        OnnxFileNotFoundError: The path does not exist.
        InvalidOnnxFileError: The file is not an ONNX model.
    """
    file = Path(os.path.realpath(path))
    with opened(file, chunk=_CHUNK) as window:
        if window.descriptor is None:
            return None
        if read_ahead and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(window.descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
        seen = identity_of(os.fstat(window.descriptor))
        try:
            body = _body(
                window,
                Field(0, LENGTH_DELIMITED, 0, 0, window.size),
                "model",
                os.fsencode(file.name),
                0,
            )
        except _HasExternalData:
            return None
        if body is None:
            return None
        content = b"".join(_bytes(window, segment) for segment in body)
        if _names_more_files(content, sum(segment == _EXTERNAL for segment in body)):
            return None
        return ModelWithoutWeights(content, file, seen)


def _body(window: ByteWindow, message: Field, kind: str, location: bytes, depth: int) -> list[_Segment] | None:
    """Return the content of a message without large tensors; None for no change."""
    if depth > MAX_DEPTH:
        raise window.invalid(f"graphs are nested more than {MAX_DEPTH} deep")
    if kind == "tensor":
        return _tensor(window, message, location)
    children = _CHILDREN[kind]
    segments: list[_Segment] = []
    kept, changed = message.payload, False  # Everything before this offset is in the segments.
    for part in walk(window, message.payload, message.end):
        inner = children.get(part.number)
        if inner is None or part.wire_type != LENGTH_DELIMITED:
            continue
        if part.end - part.payload < _SMALL and inner != "tensor":
            continue
        body = _body(window, part, inner, location, depth + 1)
        if body is None:
            continue
        changed = True
        segments += [(kept, part.start), encode_varint(part.number << 3 | LENGTH_DELIMITED)]
        segments += [encode_varint(_length(body)), *body]
        kept = part.end
    return [*segments, (kept, message.end)] if changed else None


def _tensor(window: ByteWindow, message: Field, location: bytes) -> list[_Segment] | None:
    """Return a large tensor as a reference to its data in the file; None for a tensor that is kept."""
    fields = list(walk(window, message.payload, message.end))
    if any(part.number in (_EXTERNAL_DATA, _DATA_LOCATION) for part in fields):
        raise _HasExternalData
    raw = raw_data_of(window, fields)
    return None if raw is None else reference(fields, location, raw.payload, raw.end - raw.payload)


def raw_data_of(window: ByteWindow, fields: Sequence[Field]) -> Field | None:
    """Return the content of a tensor that can be referenced; None if it is small, or not in one piece."""
    raw = [part for part in fields if part.number == _RAW_DATA]
    if len(raw) != 1 or raw[0].wire_type != LENGTH_DELIMITED or raw[0].end - raw[0].payload < _SMALL:
        return None
    if any(part.number not in _NAMED for part in fields):  # It has typed data too, or is a segment.
        return None
    if any(window.read(part.start, 2) == _STRING for part in fields if part.number == _DATA_TYPE):
        return None
    return raw[0]


def reference(fields: Sequence[Field], location: bytes, offset: int, length: int) -> list[tuple[int, int] | bytes]:
    """Return a tensor with a reference in place of its content: ranges of its file, and new bytes."""
    rest = [part for part in fields if part.number != _RAW_DATA]
    place = {b"location": location, b"offset": str(offset).encode(), b"length": str(length).encode()}
    entries = (encode_bytes_field(1, key) + encode_bytes_field(2, value) for key, value in place.items())
    reference = b"".join(encode_bytes_field(_EXTERNAL_DATA, entry) for entry in entries)
    return [*((part.start, part.end) for part in rest), reference, _EXTERNAL]


def _names_more_files(content: bytes, known: int) -> bool:
    """Whether more tensors than these have external data, for example in a node's attribute or a function."""
    return content.count(b"location") > known and len(_LOCATION.findall(content)) > known


def _length(segments: Iterable[_Segment]) -> int:
    return sum(len(segment) if isinstance(segment, bytes) else segment[1] - segment[0] for segment in segments)


def _bytes(window: ByteWindow, segment: _Segment) -> bytes:
    return segment if isinstance(segment, bytes) else window.read(segment[0], segment[1] - segment[0])


# TensorProto: float_data, int32_data, string_data, int64_data, raw_data, double_data, uint64_data
_CONTENT: Final = frozenset({4, 5, 6, 7, 9, 10, 11})
_KEPT: Final = 1 << 10  # Bytes of a tensor; shapes and axes are far smaller.
_LEFT_OUT: Final = frozenset({METADATA_PROPS, DOC_STRING})  # Fields of the model that may contain embedded files.


def without_tensors(window: ByteWindow) -> bytes:
    """Return an ONNX file as an encoded ModelProto without the content of large tensors."""
    return _without_content(window, Field(0, LENGTH_DELIMITED, 0, 0, window.size), "model", 0)


def _without_content(window: ByteWindow, message: Field, kind: str, depth: int) -> bytes:
    if depth > MAX_DEPTH:
        raise window.invalid(f"graphs are nested more than {MAX_DEPTH} deep")
    children = MESSAGES.get(kind, {})
    pieces: list[bytes] = []
    for part in walk(window, message.payload, message.end):
        inner = children.get(part.number) if part.wire_type == LENGTH_DELIMITED else None
        if (kind == "tensor" and part.number in _CONTENT) or (kind == "model" and part.number in _LEFT_OUT):
            continue
        if inner is None or part.end - part.start <= _KEPT:
            pieces.append(window.read(part.start, part.end - part.start))
        else:
            pieces.append(encode_bytes_field(part.number, _without_content(window, part, inner, depth + 1)))
    return b"".join(pieces)
