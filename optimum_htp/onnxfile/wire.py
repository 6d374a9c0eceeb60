"""The protobuf wire format: fields as byte ranges, read without decoding their content.

A message is a sequence of fields. Each field is a tag (field number and wire type, as a varint) and a payload that
has a fixed size or contains its length. So a reader can skip a gigabyte of weights by reading ten bytes.
Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from optimum_htp.errors import InvalidOnnxFileError

__all__ = ["LENGTH_DELIMITED", "MAX_TEXT_BYTES", "ByteWindow", "Field", "encode_bytes_field", "encode_varint", "walk"]

VARINT: Final = 0
FIXED64: Final = 1
LENGTH_DELIMITED: Final = 2
START_GROUP: Final = 3
END_GROUP: Final = 4
FIXED32: Final = 5

_MAX_VARINT_BYTES: Final = 10
_HEAD: Final = 3  # Bytes of a tag and a length in most fields.
_ONE_BYTE: Final = tuple(bytes([value]) for value in range(0x80))
_MAX_GROUP_DEPTH: Final = 100  # protobuf's own recursion limit.
_MAX_FIELD_NUMBER: Final = (1 << 29) - 1
MAX_TEXT_BYTES: Final = 64 << 20  # In one pass over a file, without the text that `allow_text_of` adds.
_ALLOWED_EACH: Final = 1 << 17  # Bytes of text of a node or tensor; written tags have less.


class Field(NamedTuple):
    """One field of a message: its number, its wire type and its offsets in bytes."""

    number: int
    wire_type: int
    start: int  # Of the tag.
    payload: int  # Of the content: after the tag, and after the length if there is one.
    end: int


class ByteWindow:
    """Random access to a local or remote file through a small buffer, so that walking it touches few pages.

    Args:
        fetch: Returns, for an offset and a length, the bytes of the file; fewer only at its end.
        name: Name of the file in errors.
        size: Length of the file in bytes.
        chunk: Bytes to read at a time.
        descriptor: The open file, if it is local.
        head: The start of the file, if it was already read.
    """

    def __init__(
        self,
        fetch: Callable[[int, int], bytes],
        name: str,
        size: int,
        chunk: int = 4096,
        descriptor: int | None = None,
        head: bytes = b"",
    ) -> None:
        self.descriptor = descriptor
        self.name = name
        self.size = size
        self.chunk = chunk
        self._fetch = fetch
        self._offset = 0
        self._buffer = head
        self._texts = 0
        self._allowed = MAX_TEXT_BYTES

    def begin_pass(self) -> None:
        """Reset the counter of text, because a file may be walked several times while it is open."""
        self._texts, self._allowed = 0, MAX_TEXT_BYTES

    def allow_text_of(self, message: Field) -> None:
        """Allow the text of a node or tensor in addition to the limit for a file.

        The nodes of a large model have hundreds of megabytes of text. Each takes its own bytes in the file, and more
        memory for itself than for its text.
        """
        self._allowed += min(message.end - message.payload, _ALLOWED_EACH)

    def read(self, start: int, length: int) -> bytes:
        """Return `length` bytes from `start`; InvalidOnnxFileError if the file ends before."""
        offset = start - self._offset
        if offset < 0 or offset + length > len(self._buffer):
            self._buffer = self._fetch(start, max(length, min(self.chunk, self.size - start)))
            self._offset, offset = start, 0
            if len(self._buffer) < length:
                raise self.invalid(f"it ended at byte {start + len(self._buffer)} while it was read")
        return self._buffer[offset : offset + length]

    def buffered(self, position: int, end: int) -> tuple[bytes, int]:
        """Return the buffered part of the file from about `position` on, and its offset."""
        if not self._offset <= position < self._offset + len(self._buffer):
            self.read(position, min(_HEAD, end - position))
        return self._buffer, self._offset

    def text(self, field: Field) -> str:
        """Decode a string field, which must be UTF-8, and count it."""
        length = field.end - field.payload
        self.count_text(length)
        try:
            return self.read(field.payload, length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.invalid(f"the text at byte {field.payload} is not UTF-8") from error

    def count_text(self, length: int) -> None:
        """Count decoded bytes of text; InvalidOnnxFileError if the total in this pass exceeds the limit."""
        self._texts += length
        if self._texts > self._allowed:
            raise self.invalid(f"it has more than {MAX_TEXT_BYTES >> 20} MiB of text")

    def varint(self, position: int, end: int) -> tuple[int, int]:
        """Decode the varint at `position`; return it and the position after it."""
        data = self.read(position, min(_MAX_VARINT_BYTES, end - position))
        if data and data[0] < 0x80:
            return data[0], position + 1
        value = 0
        for index, byte in enumerate(data):
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, position + index + 1
        reason = "a varint of more than 10 bytes" if len(data) == _MAX_VARINT_BYTES else "it ends early"
        raise self.invalid(f"{reason} at byte {position}")

    def invalid(self, reason: str) -> InvalidOnnxFileError:
        """Return the exception for an invalid file, with the reason."""
        return InvalidOnnxFileError(
            f"{self.name} is not a valid ONNX file: {reason}. It may be damaged, incomplete, a web page, or a Git LFS "
            "pointer. Download or export it again."
        )


def walk(window: ByteWindow, start: int, end: int) -> Iterator[Field]:
    """Yield the fields of the message between two offsets of a file. No field may extend beyond `end`."""
    position, new = start, tuple.__new__  # Takes half the time of the named tuple's own constructor.
    while position < end:
        # Most fields have a tag of one byte and a length of one or two, or a number of one byte: decoded here.
        data, base = window.buffered(position, end)
        offset, last = position - base, min(len(data), end - base) - 2
        while offset < last:
            head, size = data[offset], data[offset + 1]
            if not 7 < head < 0x80:
                break
            kind, payload = head & 7, offset + 2
            if kind == LENGTH_DELIMITED:
                if size > 0x7F:
                    more = data[payload]
                    if more > 0x7F:
                        break
                    payload, size = payload + 1, size & 0x7F | more << 7
                behind = base + payload + size
                if behind > end:
                    break
            elif kind == VARINT and (size < 0x80 or data[payload] < 0x80):
                payload, behind = offset + 1, base + payload + (size > 0x7F)
                if behind > end:
                    break
            else:
                break
            yield new(Field, (head >> 3, kind, base + offset, base + payload, behind))
            offset = behind - base
        position = base + offset
        if position >= end:
            return
        field = _field_at(window, position, end, depth=0)
        if field.wire_type == END_GROUP:
            raise window.invalid(f"a group ends at byte {position} that never began")
        yield field
        position = field.end


def _field_at(window: ByteWindow, start: int, end: int, depth: int) -> Field:
    tag, position = window.varint(start, end)
    number, wire_type = tag >> 3, tag & 7
    if not 0 < number <= _MAX_FIELD_NUMBER:
        raise window.invalid(f"field number {number} at byte {start}")
    payload = position
    if wire_type == LENGTH_DELIMITED:
        length, payload = window.varint(position, end)
        position = payload + length
    elif wire_type == VARINT:
        _, position = window.varint(position, end)
    elif wire_type == FIXED64:
        position += 8
    elif wire_type == FIXED32:
        position += 4
    elif wire_type == START_GROUP:
        position = _group_end(window, number, position, end, depth + 1)
    elif wire_type != END_GROUP:
        raise window.invalid(f"wire type {wire_type} at byte {start}")
    if position > end:
        raise window.invalid(f"the field at byte {start} reaches to byte {position}, beyond byte {end}")
    return Field(number, wire_type, start, payload, position)


def _group_end(window: ByteWindow, number: int, position: int, end: int, depth: int) -> int:
    if depth > _MAX_GROUP_DEPTH:
        raise window.invalid(f"groups nested more than {_MAX_GROUP_DEPTH} deep")
    while position < end:
        field = _field_at(window, position, end, depth)
        position = field.end
        if field.wire_type == END_GROUP:
            if field.number != number:
                raise window.invalid(f"group {number} is closed as group {field.number}")
            return position
    raise window.invalid(f"group {number} is never closed")


def encode_varint(value: int) -> bytes:
    """Encode an unsigned integer below 2**64 as a varint."""
    if value < 0x80:
        return _ONE_BYTE[value]
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def encode_bytes_field(number: int, payload: bytes) -> bytes:
    """Encode a length-delimited field: a string, bytes or an embedded message."""
    size = len(payload)
    if number < 0x10 and size < 0x4000:  # Nearly all.
        head = number << 3 | LENGTH_DELIMITED
        return bytes((head, size) if size < 0x80 else (head, size & 0x7F | 0x80, size >> 7)) + payload
    return b"%b%b%b" % (encode_varint(number << 3 | LENGTH_DELIMITED), encode_varint(size), payload)
