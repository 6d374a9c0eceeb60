"""Writes some nodes of a model as a model of its own: byte ranges of the old file, including the needed weights.

The cost depends on the copied part, not on the size of the file. Weights of external data are written into the new
file if they fit: a file can have 2 GiB, like every protobuf message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from optimum_htp.errors import InvalidOnnxFileError, OnnxWriteError
from optimum_htp.onnxfile import reader
from optimum_htp.onnxfile.copying import copy_range
from optimum_htp.onnxfile.data_files import new_data_file, own_data, remove_unused
from optimum_htp.onnxfile.external import contained_files, data_file, data_range, plain_location
from optimum_htp.onnxfile.replace_file import replaced_atomically
from optimum_htp.onnxfile.structure import FUNCTION, MAX_DEPTH, MESSAGES, NODE_METADATA
from optimum_htp.onnxfile.wire import (
    LENGTH_DELIMITED,
    VARINT,
    ByteWindow,
    Field,
    encode_bytes_field,
    encode_varint,
    walk,
)
from optimum_htp.onnxfile.writer import NodeVisitor, node_entries, property_field

__all__ = ["Submodel", "GraphPlace", "write_submodel"]

GraphPlace = tuple[tuple[int, int, int], ...]
"""The location of a graph: empty for the main graph; else the indices of node, attribute and graph per level."""

_KEPT: Final = frozenset(
    {
        reader.IR_VERSION,
        reader.PRODUCER_NAME,
        reader.PRODUCER_VERSION,
        reader.DOMAIN,
        reader.MODEL_VERSION,
        reader.OPSET_IMPORT,
    }
)
_NODE: Final = 1  # Field of GraphProto.
_GRAPH_NAME: Final = 2
_INITIALIZER: Final = 5
_ATTRIBUTE: Final = 5  # Field of NodeProto.
_GRAPHS: Final = (6, 11)  # Fields of AttributeProto.
_RAW_DATA: Final = 9  # Field of TensorProto.
_EXTERNAL_DATA: Final = 13
_DATA_LOCATION: Final = 14
_EXTERNAL: Final = 1  # The data location EXTERNAL.
_MOST: Final = (1 << 31) - (1 << 26)  # Bytes of weights in a file, with a reserve for its nodes.
_ALIGNED: Final = 4096  # Bytes; readers map external data by pages.


@dataclass(frozen=True)
class Submodel:
    """The content of the new model.

    Attributes:
        name: Name of the new graph.
        nodes: Each by its graph and its index there, in the order of execution.
        initializers: Each by its graph and its index there.
        inputs, outputs: Encoded ValueInfoProtos.
        functions: The needed functions of the model, by domain and name.
        metadata: The new model's properties.
        doc_string: The new model's doc string.
        visit: Returns the properties of each node.
    """

    name: str
    nodes: Sequence[tuple[GraphPlace, int]]
    initializers: Sequence[tuple[GraphPlace, int]]
    inputs: Sequence[bytes]
    outputs: Sequence[bytes]
    functions: frozenset[tuple[str, str]]
    metadata: Mapping[str, str]
    doc_string: str
    visit: NodeVisitor


@dataclass(frozen=True, slots=True)
class _Range:
    window: ByteWindow
    start: int
    end: int


_Piece = bytes | _Range


def write_submodel(path: Path, window: ByteWindow, submodel: Submodel, target: Path) -> None:
    """Write a part of a model, in one step.

    Args:
        path: The model's file, with its external data next to it.
        window: That file, open.
        submodel: The content of the new model.
        target: The new file. If the weights do not fit into it, they are in `<target>_data`, or in a file with a
            further suffix if that name is used.

    Raises:
        InvalidOnnxFileError: External data is outside the model's folder, or incomplete.
        OnnxWriteError: The new file cannot be written. An existing file is unchanged.
    """
    with ExitStack() as opened, ExitStack() as undo:
        data = _Data(path, lambda file: opened.enter_context(reader.opened(file)))
        graphs = _Graphs(window)
        taken = [graphs.field(place, _INITIALIZER, index) for place, index in submodel.initializers]
        nodes = [graphs.field(place, _NODE, index) for place, index in submodel.nodes]
        sizes = (_external_size(window, tensor, data) for tensor in taken)
        if sum(sizes) + sum(tensor.end - tensor.start for tensor in taken) > _MOST:
            data.location = new_data_file(target, path)
            undo.callback(remove_unused, target, frozenset({data.location}))
        graph = [_text(_GRAPH_NAME, submodel.name)]
        for node in nodes:
            graph += _copied(window, node, "node", submodel.visit, data)
        for tensor in taken:
            graph += _copied(window, tensor, "tensor", submodel.visit, data)
        graph += [encode_bytes_field(reader.GRAPH_INPUT, value) for value in submodel.inputs]
        graph += [encode_bytes_field(reader.GRAPH_OUTPUT, value) for value in submodel.outputs]
        head, functions = _around(window, submodel, data)
        metadata = [property_field(reader.METADATA_PROPS, *item) for item in submodel.metadata.items()]
        pieces = [*head, _text(reader.DOC_STRING, submodel.doc_string), *_message(reader.GRAPH, graph)]
        old = own_data(target)
        try:
            if data.location is not None:
                with replaced_atomically(target.with_name(data.location), like=path) as stream:
                    _write(data.pieces, stream)
            with replaced_atomically(target, like=path) as stream:
                _write([*pieces, *metadata, *functions], stream)
        except OSError as error:
            reason = error.strerror or error
            raise OnnxWriteError(f"{target} cannot be written: {reason}. Nothing was changed.") from error
        undo.pop_all()
        remove_unused(target, old)


@dataclass
class _Data:
    """The external data to copy.

    Attributes:
        path: The model.
        location: The new data file; None if the data is written into the model.
        pieces: Its content.
    """

    path: Path
    open: Callable[[Path], ByteWindow]
    location: str | None = None
    pieces: list[_Piece] = field(default_factory=list)
    _size: int = 0
    _windows: dict[str, ByteWindow] = field(default_factory=dict)
    _allowed: frozenset[str] | None = None

    def range(self, entries: Mapping[str, str]) -> _Range:
        """Return the location of a tensor's data."""
        location = plain_location(entries.get("location", ""))
        if location not in self._windows:
            if self._allowed is None:
                self._allowed = frozenset(contained_files(self.path))
            if location not in self._allowed:
                raise InvalidOnnxFileError(
                    f"{self.path} has data at {location!r}, which is not one of its external data files."
                )
            self._windows[location] = self.open(data_file(self.path, location))
        window = self._windows[location]
        return _Range(window, *data_range(self.path, entries, Path(window.name), window.size))

    def add(self, piece: _Range) -> dict[str, str]:
        """Add the data of a tensor to the new data file; return its location there."""
        padding = -self._size % _ALIGNED
        offset, length = self._size + padding, piece.end - piece.start
        self.pieces += [bytes(padding), piece]
        self._size = offset + length
        return {"location": self.location or "", "offset": str(offset), "length": str(length)}


class _Graphs:
    """The fields of a model's graphs, read on first use."""

    def __init__(self, window: ByteWindow) -> None:
        window.begin_pass()
        self._window = window
        self._fields: dict[GraphPlace, dict[int, list[Field]]] = {}

    def field(self, place: GraphPlace, number: int, index: int) -> Field:
        if place not in self._fields:
            found: dict[int, list[Field]] = {_NODE: [], _INITIALIZER: []}
            graph = self._graph(place)
            for part in walk(self._window, graph.payload, graph.end):
                if part.number in found and part.wire_type == LENGTH_DELIMITED:
                    found[part.number].append(part)
            self._fields[place] = found
        return self._fields[place][number][index]

    def _graph(self, place: GraphPlace) -> Field:
        if not place:
            whole = Field(0, LENGTH_DELIMITED, 0, 0, self._window.size)
            return self._inside(whole, (reader.GRAPH,))[-1]
        *around, (node, attribute, graph) = place
        holder = self._inside(self.field(tuple(around), _NODE, node), (_ATTRIBUTE,))[attribute]
        return sorted(self._inside(holder, _GRAPHS), key=lambda part: part.number)[graph]

    def _inside(self, message: Field, numbers: Sequence[int]) -> list[Field]:
        parts = walk(self._window, message.payload, message.end)
        return [part for part in parts if part.number in numbers and part.wire_type == LENGTH_DELIMITED]


def _around(window: ByteWindow, submodel: Submodel, data: _Data) -> tuple[list[_Piece], list[_Piece]]:
    """Return the fields before the graph and after it: the header, and the functions."""
    head: list[_Piece] = []
    functions: list[_Piece] = []
    for part in walk(window, 0, window.size):
        if part.number in _KEPT:
            head.append(_Range(window, part.start, part.end))
        elif part.number == FUNCTION and part.wire_type == LENGTH_DELIMITED:
            texts = {1: "", 10: ""}  # Name and domain.
            for inner in walk(window, part.payload, part.end):
                if inner.number in texts and inner.wire_type == LENGTH_DELIMITED:
                    texts[inner.number] = window.text(inner)
            if (texts[10], texts[1]) in submodel.functions:
                functions += _copied(window, part, "function", submodel.visit, data)
    return head, functions


def _copied(
    window: ByteWindow, message: Field, kind: str, visit: NodeVisitor, data: _Data, depth: int = 0
) -> list[_Piece]:
    """Return a message unchanged, except for the properties of its nodes and the location of external data."""
    if depth > MAX_DEPTH:
        raise window.invalid(f"graphs are nested more than {MAX_DEPTH} deep")
    if kind == "tensor":
        return _copied_tensor(window, message, data)
    children = MESSAGES.get(kind, {})
    body: list[_Piece] = []
    known: dict[str, str] = {}
    if kind == "node":
        window.allow_text_of(message)
    for part in walk(window, message.payload, message.end):
        inner = children.get(part.number) if part.wire_type == LENGTH_DELIMITED else None
        if kind == "node" and part.number == NODE_METADATA and part.wire_type == LENGTH_DELIMITED:
            key, value = reader.entry(window, part)
            known[key] = value
        elif inner is not None:
            body += _copied(window, part, inner, visit, data, depth + 1)
        else:
            body.append(_Range(window, part.start, part.end))
    if kind == "node":
        new = visit(known)
        body.append(node_entries(tuple((known if new is None else new).items())))
    return _message(message.number, body)


def _copied_tensor(window: ByteWindow, message: Field, data: _Data) -> list[_Piece]:
    entries = _external_entries(window, message)
    if entries is None:
        return [_Range(window, message.start, message.end)]
    body: list[_Piece] = [
        _Range(window, part.start, part.end)
        for part in walk(window, message.payload, message.end)
        if part.number not in (_EXTERNAL_DATA, _DATA_LOCATION)
    ]
    where = data.range(entries)
    if data.location is None:
        body += _message(_RAW_DATA, [where])
    else:
        body += [property_field(_EXTERNAL_DATA, *item) for item in data.add(where).items()]
        body.append(encode_varint(_DATA_LOCATION << 3 | VARINT) + encode_varint(_EXTERNAL))
    return _message(message.number, body)


def _external_entries(window: ByteWindow, tensor: Field) -> dict[str, str] | None:
    """Return the location of a tensor's data; None if it is in the tensor."""
    window.allow_text_of(tensor)
    entries: dict[str, str] = {}
    external = False
    for part in walk(window, tensor.payload, tensor.end):
        if part.number == _EXTERNAL_DATA and part.wire_type == LENGTH_DELIMITED:
            key, value = reader.entry(window, part)
            entries[key] = value
        elif part.number == _DATA_LOCATION and part.wire_type == VARINT:
            external = window.varint(part.payload, part.end)[0] == _EXTERNAL
    return entries if external else None


def _external_size(window: ByteWindow, tensor: Field, data: _Data) -> int:
    entries = _external_entries(window, tensor)
    where = None if entries is None else data.range(entries)
    return 0 if where is None else where.end - where.start


def _text(number: int, text: str) -> _Piece:
    return encode_bytes_field(number, text.encode())


def _message(number: int, body: Sequence[_Piece]) -> list[_Piece]:
    """Return a message as a field, with its length before it."""
    length = sum(len(piece) if isinstance(piece, bytes) else piece.end - piece.start for piece in body)
    return [encode_varint(number << 3 | LENGTH_DELIMITED) + encode_varint(length), *body]


def _write(pieces: Sequence[_Piece], stream: BinaryIO) -> None:
    for piece in _joined(pieces):
        if isinstance(piece, bytes):
            stream.write(piece)
        else:
            copy_range(piece.window, stream, piece.start, piece.end)


def _joined(pieces: Sequence[_Piece]) -> Iterator[_Piece]:
    """Yield pieces, with consecutive ranges merged."""
    last: _Piece | None = None
    for piece in pieces:
        if (
            isinstance(last, _Range)
            and isinstance(piece, _Range)
            and last.window is piece.window
            and last.end == piece.start
        ):
            last = _Range(last.window, last.start, piece.end)
            continue
        if last is not None:
            yield last
        last = piece
    if last is not None:
        yield last
