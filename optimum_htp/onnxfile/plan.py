"""The plan of a rewritten ONNX file: ranges of the old file, and new bytes in place of some fields."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from optimum_htp.errors import MetadataError
from optimum_htp.onnxfile import reader
from optimum_htp.onnxfile.data_files import MovedData
from optimum_htp.onnxfile.plain import may_hold_graph, plain_metadata
from optimum_htp.onnxfile.structure import CHILDREN, INITIALIZER, MAX_DEPTH, NODE, NODE_METADATA, NodePlaces
from optimum_htp.onnxfile.wire import (
    LENGTH_DELIMITED,
    MAX_TEXT_BYTES,
    ByteWindow,
    Field,
    encode_bytes_field,
    encode_varint,
    walk,
)

__all__ = ["NodeVisitor", "Segment", "length_of", "node_entries", "planned", "property_field"]

_TENSOR: Final = INITIALIZER << 3 | LENGTH_DELIMITED
_MAX_PROPERTY: Final = 8 << 20  # Characters; readers limit the text of a file.
_MAX_ARCHIVE: Final = 1 << 30  # Characters; a ModelProto has at most 2 GiB.

NodeVisitor = Callable[[Mapping[str, str]], Mapping[str, str] | None]
"""Returns the new metadata properties of a node for its present ones, or None for no change."""

Segment = tuple[int, int] | bytes  # A range of the old file, or new bytes.


def planned(
    window: ByteWindow,
    metadata: Mapping[str, str],
    drop: Callable[[str], bool],
    visit: NodeVisitor | None,
    fields: Mapping[int, bytes],
    data: MovedData | None,
    nodes: NodePlaces,
) -> list[Segment]:
    """List the new file's segments, with new fields in the order of their numbers.

    Nodes of the graph that `graph_of` has listed are not read again.

    Archives come last, so that a reader of a remote file need not download them.
    """
    window.begin_pass()
    changes = None if visit is None and data is None else _Changes(visit or (lambda known: None), data)
    segments: list[Segment] = []
    entries = {key: property_field(reader.METADATA_PROPS, key, value) for key, value in metadata.items()}
    new = sorted(fields.items())
    new += [(reader.METADATA_PROPS, encoded) for key, encoded in entries.items() if not reader.is_archive(key)]
    last: list[Segment] = []
    has_graph, text = False, sum(len(encoded) for _, encoded in new)
    for part in walk(window, 0, window.size):
        has_graph |= part.number == reader.GRAPH
        while new and new[0][0] < part.number:
            _add(segments, new.pop(0)[1])
        if part.number in fields:
            continue
        kind = CHILDREN["model"].get(part.number)
        if part.wire_type != LENGTH_DELIMITED:
            _add(segments, (part.start, part.end))
        elif part.number == reader.METADATA_PROPS:
            key, _ = reader.property_at(window, part)
            if key not in metadata and not drop(key):
                text += 0 if reader.is_archive(key) else part.end - part.start
                _add(last if reader.is_archive(key) else segments, (part.start, part.end))
        elif kind is not None and changes is not None:
            if part.number == reader.GRAPH and nodes and data is None:
                rebuilt = _assembled(part, _rebuilt_nodes(window, part, nodes, changes))
            else:
                rebuilt = _rebuilt(window, part, kind, changes, 0)
            first, *others = rebuilt or [(part.start, part.end)]
            _add(segments, first)
            segments += others
        else:
            _add(segments, (part.start, part.end))
    if not has_graph:
        raise window.invalid("it has no graph")
    if text > MAX_TEXT_BYTES:
        raise MetadataError(
            f"The properties of {window.name} would have {text >> 20} MiB of text, but at most {MAX_TEXT_BYTES >> 20} "
            "MiB can be read. Nothing was written. Remove some, for example with `optimum-cli htp strip`."
        )
    last += [encoded for key, encoded in entries.items() if reader.is_archive(key)]
    for segment in (*(encoded for _, encoded in new), *last):
        _add(segments, segment)
    return segments


@dataclass(frozen=True)
class _Changes:
    """The changes to the messages of a file; see `planned`."""

    visit: NodeVisitor
    data: MovedData | None


_Changed = tuple[int, int, Sequence[Segment]]  # The offsets of a field, and its replacement.


def _rebuilt(window: ByteWindow, message: Field, kind: str, changes: _Changes, depth: int) -> Sequence[Segment] | None:
    """Return the segments of a message with changed nodes or initializers; None for no change."""
    if depth > MAX_DEPTH:
        raise window.invalid(f"graphs are nested more than {MAX_DEPTH} deep")
    if kind == "node" and (short := plain_metadata(window, message)) is not None:
        return _rebuilt_short(window, message.payload, message.end, message.number, short, changes.visit)
    children = CHILDREN[kind]
    fields: Iterable[Field] = walk(window, message.payload, message.end)
    metadata: Mapping[str, str] | None = None
    if kind == "node":
        window.allow_text_of(message)
        fields = list(fields)
        known = dict(
            reader.entry(window, part)
            for part in fields
            if part.number == NODE_METADATA and part.wire_type == LENGTH_DELIMITED
        )
        metadata = changes.visit(known)
        if metadata is not None and dict(metadata) == known:
            metadata = None
    made: list[_Changed] = []
    for part in fields:
        if metadata is not None and part.number == NODE_METADATA:
            made.append((part.start, part.end, ()))
        elif part.wire_type == LENGTH_DELIMITED and part.number in children:
            if kind != "node" or may_hold_graph(window, part):
                inner = _rebuilt(window, part, children[part.number], changes, depth + 1)
                if inner is not None:
                    made.append((part.start, part.end, inner))
        elif changes.data is not None and kind == "graph" and part.number == INITIALIZER:
            moved = changes.data.moved(window, part) if part.wire_type == LENGTH_DELIMITED else None
            if moved is not None:
                head = encode_varint(_TENSOR) + encode_varint(length_of(moved))
                made.append((part.start, part.end, [head, *moved]))
    return _assembled(message, made, node_entries(tuple(metadata.items())) if metadata else b"")


def _rebuilt_nodes(window: ByteWindow, graph: Field, nodes: NodePlaces, changes: _Changes) -> Iterator[_Changed]:
    """Yield the changes of a graph's nodes, whose offsets are known."""
    visit, first, last = changes.visit, graph.start, graph.end
    for start, payload, end, known in nodes:
        if not first < start < last:  # A damaged file may have several graphs.
            continue
        if known is None:
            inner = _rebuilt(window, Field(NODE, LENGTH_DELIMITED, start, payload, end), "node", changes, 1)
        else:
            inner = _rebuilt_short(window, payload, end, NODE, known, visit)
        if inner is not None:
            yield start, end, inner


def _assembled(message: Field, changed: Iterable[_Changed], last: bytes = b"") -> Sequence[Segment] | None:
    """Return the segments of a message with changed fields and further fields at the end; None for no change."""
    body: list[Segment] = []
    position = message.payload
    for start, end, inner in changed:
        if position < start:
            body.append((position, start))
        body += inner
        position = end
    if position == message.payload and not last:
        return None
    if position < message.end:
        body.append((position, message.end))
    if last:
        body.append(last)
    return [encode_varint(message.number << 3 | LENGTH_DELIMITED) + encode_varint(length_of(body)), *body]


def _rebuilt_short(
    window: ByteWindow, payload: int, end: int, number: int, known: Mapping[str, str], visit: NodeVisitor
) -> Sequence[Segment] | None:
    """Return a short node as one segment, or None for no change."""
    metadata = visit(known)
    if metadata is None or (metadata == known if known else not metadata):
        return None
    if known:
        kept = (part for part in walk(window, payload, end) if part.number != NODE_METADATA)
        content = b"".join([window.read(part.start, part.end - part.start) for part in kept])
    else:
        content = window.read(payload, end - payload)
    return (encode_bytes_field(number, content + node_entries(tuple(metadata.items()))),)


@functools.lru_cache(maxsize=128)
def node_entries(items: tuple[tuple[str, str], ...]) -> bytes:
    """Encode a node's properties. Neighbouring nodes often have the same."""
    return b"".join(property_field(NODE_METADATA, key, value) for key, value in items)


def property_field(number: int, key: str, value: str) -> bytes:
    """Encode a StringStringEntryProto as a field."""
    if (length := len(key) + len(value)) > _MAX_PROPERTY and (
        length > (most := _MAX_ARCHIVE if reader.is_archive(key) else _MAX_PROPERTY)
    ):
        raise MetadataError(f"The metadata property {key[:40]!r} has more than {most >> 20} MiB.", key)
    name, text = key.encode(), value.encode()
    if len(name) < 0x80 and len(text) < 0x80:  # Nearly all: each length is one byte.
        content = b"\x0a%c%b\x12%c%b" % (len(name), name, len(text), text)
    else:
        content = encode_bytes_field(1, name) + encode_bytes_field(2, text)
    return encode_bytes_field(number, content)


def length_of(segments: Iterable[Segment]) -> int:
    """Return the total number of bytes of segments."""
    return sum([len(segment) if isinstance(segment, bytes) else segment[1] - segment[0] for segment in segments])


def _add(segments: list[Segment], segment: Segment) -> None:
    """Append a segment; merge it with the last one if both are consecutive ranges."""
    last = segments[-1] if segments else None
    if isinstance(segment, tuple) and isinstance(last, tuple) and last[1] == segment[0]:
        segments[-1] = last[0], segment[1]
    elif segment:
        segments.append(segment)
