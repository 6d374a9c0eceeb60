"""Changing what an ONNX file says about itself and its nodes, without touching weights.

The new file is the old one as a sequence of byte ranges, with some fields left out and some put in. Weights pass
through the kernel or a small buffer, and external data is left where it is. A file is replaced in one step or not at
all.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from optimum_htp.errors import FileChangedError, MetadataError, OnnxWriteError
from optimum_htp.onnxfile import reader
from optimum_htp.onnxfile.copying import copy_range
from optimum_htp.onnxfile.graph import (
    CHILDREN,
    MAX_DEPTH,
    NODE_METADATA,
    Graph,
    ShortNode,
    graph_of,
    may_hold_graph,
    short_node,
)
from optimum_htp.onnxfile.replace import replaced_atomically
from optimum_htp.onnxfile.wire import (
    LENGTH_DELIMITED,
    MAX_TEXT_BYTES,
    VARINT,
    ByteWindow,
    Field,
    encode_bytes_field,
    encode_varint,
    walk,
)

__all__ = ["NodeVisitor", "OpenModel", "node_entries", "property_field", "rewrite_model"]

_TEXT_FIELDS: Final = {
    "producer_name": reader.PRODUCER_NAME,
    "producer_version": reader.PRODUCER_VERSION,
    "domain": reader.DOMAIN,
    "doc_string": reader.DOC_STRING,
}
_CHUNK: Final = 1 << 16
_MAX_PROPERTY: Final = 8 << 20  # characters; readers bound the text of a file
_MAX_ARCHIVE: Final = 1 << 30  # characters: a ModelProto has at most 2 GiB

NodeVisitor = Callable[[Mapping[str, str]], Mapping[str, str] | None]
"""Given a node's metadata properties, returns its new ones, or None to leave the node as it is."""

Segment = tuple[int, int] | bytes  # a range of the old file, or new bytes


def rewrite_model(
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, str] | None = None,
    drop: Callable[[str], bool] = lambda key: False,
    nodes: NodeVisitor | None = None,
    ir_version: int | None = None,
    output: str | os.PathLike[str] | None = None,
    **texts: str,
) -> None:
    """Set metadata and header fields of an ONNX file; every other byte stays as it is.

    Args:
        path: The file. A link is followed; its target is replaced.
        metadata: Model-level properties to set. Properties of the same key are replaced. Archives (`is_archive`) come
            last in the file, whatever else is set.
        drop: Says of a key whether a model-level property that has it is left out.
        nodes: Called for every node, those of subgraphs and functions included, in order of the file.
        ir_version: New IR version.
        output: Where to write instead of in place; the file at `path` then stays as it is.
        **texts: New values of `producer_name`, `producer_version`, `domain` and `doc_string`; an empty one
            removes the field.

    Raises:
        OnnxFileNotFoundError: There is nothing at the path.
        InvalidOnnxFileError: What is there is not an ONNX model.
        FileChangedError: It was replaced or changed while it was read. Nothing was written.
        OnnxWriteError: The new file cannot be written. The old one still stands.
    """
    with OpenModel.at(path) as model:
        model.rewrite(metadata=metadata, drop=drop, nodes=nodes, ir_version=ir_version, output=output, **texts)


class OpenModel:
    """An ONNX file that is open: what is read of it, and what is written in its place, are of one and the same file.

    Attributes:
        path: The file, links followed.
        header, graph: Read when they are first asked for.
    """

    def __init__(self, path: Path, window: ByteWindow, reading: ExitStack) -> None:
        self.path = path
        self._window = window
        self._reading = reading
        self._seen = _identity(os.fstat(window.descriptor)) if window.descriptor is not None else None

    @classmethod
    @contextmanager
    def at(cls, path: str | os.PathLike[str]) -> Iterator[OpenModel]:
        """Open a file.

        Raises:
            OnnxFileNotFoundError: There is nothing at the path.
            OnnxReadError, InvalidOnnxFileError: What is there cannot be read, or is not an ONNX model.
        """
        with ExitStack() as reading:
            source = Path(os.path.realpath(path))
            yield cls(source, reading.enter_context(reader.opened(source)), reading)

    @functools.cached_property
    def header(self) -> reader.ModelHeader:
        """Everything but the graph."""
        return reader.header_of(self._window)

    @functools.cached_property
    def graph(self) -> Graph:
        """The structure of the graph, without the weights."""
        self._window.chunk = _CHUNK
        return graph_of(self._window)

    def rewrite(
        self,
        *,
        metadata: Mapping[str, str] | None = None,
        drop: Callable[[str], bool] = lambda key: False,
        nodes: NodeVisitor | None = None,
        ir_version: int | None = None,
        output: str | os.PathLike[str] | None = None,
        **texts: str,
    ) -> None:
        """Write the file anew and close it; the arguments and exceptions are those of `rewrite_model`.

        Where nothing would change in place, nothing is written.
        """
        target = self.path if output is None else Path(os.path.realpath(output))
        headers = {_TEXT_FIELDS[name]: text for name, text in texts.items()}
        new = {number: encode_bytes_field(number, text.encode()) if text else b"" for number, text in headers.items()}
        if ir_version is not None:
            new[reader.IR_VERSION] = encode_varint(reader.IR_VERSION << 3 | VARINT) + encode_varint(ir_version)
        if nodes is not None:
            self._window.chunk = _CHUNK
        segments = _plan(self._window, metadata or {}, drop, nodes, new)
        if target == self.path and segments == [(0, self._window.size)]:
            return
        try:
            with replaced_atomically(target, like=self.path, check=self._check) as stream:
                for segment in segments:
                    if isinstance(segment, bytes):
                        stream.write(segment)
                    else:
                        copy_range(self._window, stream, *segment)
                self._check()
                self._reading.close()  # Windows replaces no file that is open
        except OnnxWriteError:
            raise
        except OSError as error:
            raise OnnxWriteError(f"{target} cannot be written: {error}. Nothing there was changed.") from error

    def _check(self) -> None:
        """Refuse to go on where the file at the path is not the one that was read."""
        try:
            there = _identity(self.path.stat())
        except FileNotFoundError:
            there = None
        if there != self._seen:
            raise FileChangedError(
                f"{self.path} was replaced or changed by somebody else while it was read. Nothing was written; try "
                "again."
            )


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _plan(
    window: ByteWindow,
    metadata: Mapping[str, str],
    drop: Callable[[str], bool],
    visit: NodeVisitor | None,
    fields: Mapping[int, bytes],
) -> list[Segment]:
    """List the new file's segments, new fields where their number says that they belong.

    Archives come at the very end: who reads the rest of a file that is far away need not fetch them.
    """
    window.begin_pass()
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
        elif visit is not None and kind is not None:
            for segment in _rebuilt(window, part, kind, visit, 0) or [(part.start, part.end)]:
                _add(segments, segment)
        else:
            _add(segments, (part.start, part.end))
    if not has_graph:
        raise window.invalid("it has no graph")
    if text > MAX_TEXT_BYTES:
        raise MetadataError(
            f"The properties of {window.name} would have {text >> 20} MiB of text, and {MAX_TEXT_BYTES >> 20} MiB are "
            "read. Nothing was written. Remove some, for example with `optimum-cli htp strip`."
        )
    last += [encoded for key, encoded in entries.items() if reader.is_archive(key)]
    for segment in (*(encoded for _, encoded in new), *last):
        _add(segments, segment)
    return segments


def _rebuilt(window: ByteWindow, message: Field, kind: str, visit: NodeVisitor, depth: int) -> list[Segment] | None:
    """Return the segments of a message in which nodes changed, or None where none did."""
    if depth > MAX_DEPTH:
        raise window.invalid(f"graphs are nested more than {MAX_DEPTH} deep")
    if kind == "node" and (short := short_node(window, message)) is not None:
        return _rebuilt_short(message.number, short, visit)
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
        metadata = visit(known)
        if metadata is not None and dict(metadata) == known:
            metadata = None
    changes: list[tuple[Field, list[Segment]]] = []
    for part in fields:
        if metadata is not None and part.number == NODE_METADATA:
            changes.append((part, []))
        elif part.wire_type == LENGTH_DELIMITED and part.number in children and _may_hold_nodes(window, part, kind):
            inner = _rebuilt(window, part, children[part.number], visit, depth + 1)
            if inner is not None:
                changes.append((part, inner))
    if metadata is None and not changes:
        return None
    body: list[Segment] = []
    position = message.payload
    for part, inner in changes:
        if position < part.start:
            body.append((position, part.start))
        body += inner
        position = part.end
    if position < message.end:
        body.append((position, message.end))
    if metadata:
        body.append(node_entries(tuple(metadata.items())))
    return [encode_varint(message.number << 3 | LENGTH_DELIMITED) + encode_varint(_length(body)), *body]


def _rebuilt_short(number: int, node: ShortNode, visit: NodeVisitor) -> list[Segment] | None:
    """Return a node that is short as one segment, or None where it did not change."""
    metadata = visit(node.metadata)
    if metadata is None or dict(metadata) == node.metadata:
        return None
    content = node.content
    if node.metadata:
        kept, position = [], 0
        for number_inside, _, end in node.fields:
            if number_inside != NODE_METADATA:
                kept.append(content[position:end])
            position = end
        content = b"".join(kept)
    entries = node_entries(tuple(metadata.items()))
    return [encode_bytes_field(number, content + entries)]


def _may_hold_nodes(window: ByteWindow, part: Field, kind: str) -> bool:
    return kind != "node" or may_hold_graph(window, part)


@functools.lru_cache(maxsize=128)
def node_entries(items: tuple[tuple[str, str], ...]) -> bytes:
    """Encode a node's properties; neighbours mostly have the same."""
    return b"".join(property_field(NODE_METADATA, key, value) for key, value in items)


def property_field(number: int, key: str, value: str) -> bytes:
    """Encode a StringStringEntryProto as a field."""
    most = _MAX_ARCHIVE if reader.is_archive(key) else _MAX_PROPERTY
    if len(key) + len(value) > most:
        raise MetadataError(f"The metadata property {key[:40]!r} has more than {most >> 20} MiB.", key)
    content = encode_bytes_field(1, key.encode()) + encode_bytes_field(2, value.encode())
    return encode_bytes_field(number, content)


def _length(segments: Iterable[Segment]) -> int:
    return sum([len(segment) if isinstance(segment, bytes) else segment[1] - segment[0] for segment in segments])


def _add(segments: list[Segment], segment: Segment) -> None:
    """Add a segment, as one with the last where it is the range behind that."""
    last = segments[-1] if segments else None
    if isinstance(segment, tuple) and isinstance(last, tuple) and last[1] == segment[0]:
        segments[-1] = last[0], segment[1]
    elif segment:
        segments.append(segment)
