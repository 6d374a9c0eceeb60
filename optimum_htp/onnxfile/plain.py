"""Decodes nodes and tensors in their usual form: short, or with a short start, with fields in the usual order.

Each function returns None for a message of another form, which the general reader then walks. Models have tens of
thousands of nodes, so this determines how long reading and tagging take.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from optimum_htp.onnxfile.operators import WITH_INTEGERS
from optimum_htp.onnxfile.reader import short_entry
from optimum_htp.onnxfile.structure import CHILDREN, NOTHING, Initializer, Node
from optimum_htp.onnxfile.tensors import dtype_name
from optimum_htp.onnxfile.wire import LENGTH_DELIMITED, ByteWindow, Field

__all__ = ["may_hold_graph", "plain_metadata", "plain_node", "plain_tensor"]

_new: Final = tuple.__new__  # Takes half the time of a named tuple's own constructor.
_SCANNED: Final = 1 << 10  # Bytes of an attribute that are searched at once.
_SHORT: Final = _SCANNED  # Bytes of a node that is decoded at once; its attributes cannot be longer.
_HEAD: Final = 192  # Bytes of a tensor before its content.
_SUBGRAPH: Final = re.compile(
    b"[%b]"
    % re.escape(bytes(number << 3 | LENGTH_DELIMITED | more for number in CHILDREN["attribute"] for more in (0, 0x80)))
)
"""The first byte of a field that contains a subgraph: its tag. A tag may also be a longer varint than needed."""


def may_hold_graph(window: ByteWindow, attribute: Field) -> bool:
    """Whether an attribute may contain a subgraph. A short attribute is searched for the tag."""
    length = attribute.end - attribute.payload
    return length > _SCANNED or _SUBGRAPH.search(window.read(attribute.payload, length)) is not None


def plain_metadata(window: ByteWindow, part: Field) -> Mapping[str, str] | None:
    """Return the metadata of a short node without subgraphs; None for any other node."""
    node = plain_node(window, part, ())
    return None if node is None else node.metadata


def plain_node(window: ByteWindow, part: Field, within: tuple[str, ...]) -> Node | None:
    """Decode a short node without subgraphs; None for any other node."""
    if part.end - part.payload > _SHORT:
        return None
    content = window.read(part.payload, part.end - part.payload)
    name = operator = domain = ""
    inputs: list[str] = []
    outputs: list[str] = []
    metadata: dict[str, str] | None = None
    offset, end = 0, len(content)
    try:
        while offset < end:
            head, size = content[offset], content[offset + 1]
            start = offset + 2
            if size > 0x7F:
                if content[start] > 0x7F:
                    return None
                size, start = size & 0x7F | content[start] << 7, start + 1
            offset = start + size
            if head == 0x0A:
                inputs.append(content[start:offset].decode())
            elif head == 0x12:
                outputs.append(content[start:offset].decode())
            elif head == 0x1A:
                name = content[start:offset].decode()
            elif head == 0x22:
                operator = content[start:offset].decode()
            elif head == 0x2A:
                if _SUBGRAPH.search(content, start, offset) is not None:
                    return None
            elif head == 0x3A:
                domain = content[start:offset].decode()
            elif head == 0x4A:
                known = short_entry(content[start:offset])
                if known is None:
                    return None
                if metadata is None:
                    metadata = {}
                metadata[known[0]] = known[1]
            elif head & 0x87 != LENGTH_DELIMITED or head < 8:
                return None
    except (IndexError, UnicodeDecodeError):  # The general reader reports the position.
        return None
    if offset != end or operator in WITH_INTEGERS:
        return None
    entries = NOTHING if metadata is None else metadata
    return _new(Node, (name, operator, domain, tuple(inputs), tuple(outputs), entries, within, NOTHING))


def plain_tensor(window: ByteWindow, part: Field) -> Initializer | None:
    """Decode a TensorProto in its usual form: dims, data_type and name are short, and raw_data = 9 follows."""
    content = window.read(part.payload, min(part.end - part.payload, _HEAD))
    name, number, offset = "", 0, 0
    shape: list[int] = []
    try:
        while content[offset] != 0x4A:
            head, value = content[offset], content[offset + 1]
            offset += 2
            if head == 0x42 and value < 0x80:
                name = content[offset : offset + value].decode()
                offset += value
                continue
            if value > 0x7F:
                more = content[offset]
                value, offset = value & 0x7F | more << 7, offset + 1
                if more > 0x7F:
                    return None
            if head == 0x08:
                shape.append(value)
            elif head == 0x10:
                number = value
            else:
                return None
    except (IndexError, UnicodeDecodeError):
        return None
    size, end = window.varint(part.payload + offset + 1, part.end)
    return _new(Initializer, (name, tuple(shape), dtype_name(number))) if end + size == part.end else None
