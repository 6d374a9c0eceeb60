"""The tensors in a model, with their content: initializers, and the values of `Constant` nodes.

ONNX has several forms of a tensor: a `TensorProto`, a sparse one, and the numeric attributes of a `Constant`. A
weight may have any of these forms, so all are read.

Content in one piece, in the file or in its external data, is mapped into memory and read on use.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, Final

from optimum_htp.errors import InvalidOnnxFileError
from optimum_htp.onnxfile.external import contained_files, data_file, data_range, plain_location
from optimum_htp.onnxfile.reader import GRAPH, entry, opened
from optimum_htp.onnxfile.replace_file import identity_of
from optimum_htp.onnxfile.structure import FUNCTION, MAX_DEPTH
from optimum_htp.onnxfile.tensors import as_mapped, bits_of, dtype_name, integer, integers, numpy_type
from optimum_htp.onnxfile.unchanged import FileVersion, version_of
from optimum_htp.onnxfile.wire import LENGTH_DELIMITED, VARINT, ByteWindow, Field, walk

__all__ = ["StoredTensor", "stored_tensors", "tensors_of"]

_STRING: Final = 8
_FLOATS: Final = 7  # Field of AttributeProto.
# The numeric attributes of a Constant, with their field of AttributeProto, their type, and whether
# they are a list.
_NUMBERS: Final = {
    "value_float": (2, "float32", False),
    "value_int": (3, "int64", False),
    "value_floats": (_FLOATS, "float32", True),
    "value_ints": (8, "int64", True),
}
_SPARSE_VALUE: Final = 22  # Field of AttributeProto.
_LARGEST_SPARSE: Final = 1 << 31  # Maximum bytes of a sparse tensor in dense form.


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file.

    Attributes:
        name: Name of its value.
        constant: Whether it is the value of a `Constant` node, not an initializer.
        file: The file with its content, as it was when the tensors were listed; the model's file if it must be
            decoded.
        start, end: Offsets of its content in bytes; of the whole message if its content is not in one piece.
        decode: Returns its values for that message; None if its content is in one piece.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    constant: bool
    file: FileVersion
    start: int
    end: int
    decode: Callable[[bytes, StoredTensor], Any] | None

    @property
    def path(self) -> Path:
        """The file with its content."""
        return self.file.path

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    def array(self) -> Any:
        """Return the content as a numpy array, mapped if it is in one piece.

        bfloat16 and types of 8 bits that numpy does not have are unsigned integers; smaller types are packed bytes.

        FileChangedError if the file was replaced or changed after the tensors were listed.
        """
        import numpy as np

        if self.decode is not None:
            return self._decoded(self.decode)
        bits = bits_of(self.dtype)
        if self.end - self.start != (self.size * bits + 7) // 8 or bits == 0:
            raise InvalidOnnxFileError(
                f"{self.path}: the tensor {self.name!r} has {self.end - self.start} bytes for {self.size} elements of "
                f"{self.dtype}. Download or export the file again."
            )
        shape = self.shape if bits >= 8 else ((self.size * bits + 7) // 8,)
        kind = numpy_type(self.dtype, bits)
        if self.start == self.end:
            return np.zeros(shape, kind)
        with self.file.opened() as stream:
            return np.memmap(stream, kind, "r", self.start, shape)

    def _decoded(self, decode: Callable[[bytes, StoredTensor], Any]) -> Any:
        from google.protobuf.message import DecodeError

        with self.file.opened() as stream:
            stream.seek(self.start)
            message = stream.read(self.end - self.start)
        try:
            return decode(message, self)
        except (ValueError, TypeError, IndexError, DecodeError) as error:
            raise InvalidOnnxFileError(f"{self.path}: the tensor {self.name!r} cannot be read: {error}") from error


def _dense_values(message: bytes, tensor: StoredTensor) -> Any:
    """Return the values of a TensorProto."""
    import onnx

    return as_mapped(onnx.numpy_helper.to_array(onnx.TensorProto.FromString(message)), bits_of(tensor.dtype))


def _sparse_values(message: bytes, tensor: StoredTensor) -> Any:
    """Return a SparseTensorProto in dense form.

    ValueError if it has external data, is too large, or has invalid indices.
    """
    import numpy as np
    import onnx

    shape = tensor.shape
    sparse = onnx.SparseTensorProto.FromString(message)
    if onnx.TensorProto.EXTERNAL in (sparse.values.data_location, sparse.indices.data_location):
        raise ValueError("it is sparse, with external data")
    values = onnx.numpy_helper.to_array(sparse.values).reshape(-1)
    if prod(shape) * values.itemsize > _LARGEST_SPARSE:
        raise ValueError(f"it is sparse, and its dense form has more than {_LARGEST_SPARSE >> 30} GiB")
    indices = onnx.numpy_helper.to_array(sparse.indices)
    places = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), shape)
    array = np.zeros(prod(shape), values.dtype)
    array[places] = values
    return array.reshape(shape)


def _attribute_values(message: bytes, tensor: StoredTensor) -> Any:
    """Return the numbers of a Constant's attribute."""
    import numpy as np
    import onnx

    attribute = onnx.AttributeProto.FromString(message)
    return np.array(onnx.helper.get_attribute_value(attribute), tensor.dtype).reshape(tensor.shape)


def stored_tensors(path: str | os.PathLike[str]) -> list[StoredTensor]:
    """Return the tensors of a file, including those of subgraphs, in the order of the file. Reads no content.

    Tensors of the model's own functions are included; tensors of strings are left out.
    """
    with opened(path, chunk=1 << 16) as window:
        return tensors_of(window, Path(path))


def tensors_of(window: ByteWindow, path: Path) -> list[StoredTensor]:
    """Return the tensors of an open file; see `stored_tensors`."""
    window.begin_pass()
    files = _DataFiles(path, window)
    return [
        tensor
        for part in walk(window, 0, window.size)
        if part.number in (GRAPH, FUNCTION) and part.wire_type == LENGTH_DELIMITED
        for tensor in _of_graph(window, part, files, 0, function=part.number == FUNCTION)
    ]


class _DataFiles:
    """The external data files of a model, each looked up once."""

    def __init__(self, path: Path, window: ByteWindow) -> None:
        self.path, self.model = path, version_of(path, window)
        self._window = window
        self._known: dict[str, tuple[FileVersion, int]] = {}

    @cached_property
    def _allowed(self) -> tuple[str, ...]:
        return contained_files(self.path, self._window)

    def place(self, entries: Mapping[str, str]) -> tuple[FileVersion, int, int]:
        """Return file, start and end of an `external_data` entry."""
        location = plain_location(entries.get("location", ""))
        if location not in self._known:
            if location not in self._allowed:
                raise InvalidOnnxFileError(
                    f"{self.path} has data at {location!r}, which is not one of its external data files."
                )
            file = data_file(self.path, location)
            status = file.stat()
            self._known[location] = FileVersion(file, identity_of(status)), status.st_size
        version, size = self._known[location]
        return version, *data_range(self.path, entries, version.path, size)


def _of_graph(
    window: ByteWindow, graph: Field, files: _DataFiles, depth: int, *, function: bool = False
) -> Iterator[StoredTensor]:
    """Yield the tensors of a graph: node = 1, initializer = 5, sparse_initializer = 15; in a function node = 7."""
    if depth > MAX_DEPTH:
        raise window.invalid(f"graphs are nested more than {MAX_DEPTH} deep")
    for part in walk(window, graph.payload, graph.end):
        if part.wire_type != LENGTH_DELIMITED:
            continue
        if part.number == (7 if function else 1):
            yield from _of_node(window, part, files, depth)
        elif part.number == 5 and not function:
            yield from _tensor(window, part, files)
        elif part.number == 15 and not function:
            yield from _sparse(window, part, files)


def _of_node(window: ByteWindow, node: Field, files: _DataFiles, depth: int) -> Iterator[StoredTensor]:
    """Yield the tensors of a node: output = 2, op_type = 4, attribute = 5; in an attribute g = 6, graphs = 11."""
    window.allow_text_of(node)
    outputs: list[str] = []
    operator = ""
    attributes: list[Field] = []
    for part in walk(window, node.payload, node.end):
        if part.wire_type != LENGTH_DELIMITED:
            continue
        if part.number == 2:
            outputs.append(window.text(part))
        elif part.number == 4:
            operator = window.text(part)
        elif part.number == 5:
            attributes.append(part)
    for attribute in attributes:
        if operator == "Constant" and outputs:
            yield from _of_constant(window, attribute, files, outputs[0])
        for part in walk(window, attribute.payload, attribute.end):
            if part.wire_type == LENGTH_DELIMITED and part.number in (6, 11):
                yield from _of_graph(window, part, files, depth + 1)


def _of_constant(window: ByteWindow, attribute: Field, files: _DataFiles, value: str) -> Iterator[StoredTensor]:
    """Yield the tensor in an attribute of a `Constant`: AttributeProto has name = 1, t = 5."""
    name = ""
    fields = list(walk(window, attribute.payload, attribute.end))
    for part in fields:
        if part.number == 1 and part.wire_type == LENGTH_DELIMITED:
            name = window.text(part)
        elif part.number == 5 and part.wire_type == LENGTH_DELIMITED:
            yield from _tensor(window, part, files, value)
        elif part.number == _SPARSE_VALUE and part.wire_type == LENGTH_DELIMITED:
            yield from _sparse(window, part, files, value)
    if name in _NUMBERS:
        number, dtype, listed = _NUMBERS[name]
        shape = (sum(_count(window, part) for part in fields if part.number == number),) if listed else ()
        start, end = attribute.payload, attribute.end
        yield StoredTensor(value, shape, dtype, True, files.model, start, end, _attribute_values)


def _count(window: ByteWindow, part: Field) -> int:
    """Return the number of values in a field, packed or not."""
    if part.number == _FLOATS:
        return (part.end - part.payload) // 4
    return sum(1 for _ in integers(window, part))


def _sparse(window: ByteWindow, message: Field, files: _DataFiles, value: str | None = None) -> Iterator[StoredTensor]:
    """Yield a SparseTensorProto without its content: values = 1, with the name, and dims = 3."""
    start, end = message.payload, message.end
    dims = (part for part in walk(window, start, end) if part.number == 3)
    shape = tuple(size for part in dims for size in integers(window, part))
    for part in walk(window, start, end):
        if part.number == 1 and part.wire_type == LENGTH_DELIMITED and all(size >= 0 for size in shape):
            for tensor in _tensor(window, part, files, value):
                yield replace(tensor, shape=shape, file=files.model, start=start, end=end, decode=_sparse_values)


def _tensor(window: ByteWindow, message: Field, files: _DataFiles, value: str | None = None) -> Iterator[StoredTensor]:
    """Yield a TensorProto without its content: dims 1, data_type 2, name 8, raw_data 9, external_data 13, 14."""
    window.allow_text_of(message)
    name, number = "", 0
    shape: list[int] = []
    raw: tuple[int, int] | None = None
    entries: dict[str, str] = {}
    external = False
    for part in walk(window, message.payload, message.end):
        if part.number == 1:
            shape += integers(window, part)
        elif part.number == 2 and part.wire_type == VARINT:
            number = integer(window, part)
        elif part.number == 8 and part.wire_type == LENGTH_DELIMITED:
            name = window.text(part)
        elif part.number == 9 and part.wire_type == LENGTH_DELIMITED:
            raw = part.payload, part.end
        elif part.number == 13 and part.wire_type == LENGTH_DELIMITED:
            key, text = entry(window, part)
            entries[key] = text
        elif part.number == 14 and part.wire_type == VARINT:
            external = integer(window, part) == 1
    if number == _STRING or any(size < 0 for size in shape):
        return
    decode = None
    if external:
        file, start, end = files.place(entries)
    elif raw is not None:
        file, (start, end) = files.model, raw
    else:
        file, start, end, decode = files.model, message.payload, message.end, _dense_values
    yield StoredTensor(value or name, tuple(shape), dtype_name(number), value is not None, file, start, end, decode)
