"""Changes the metadata of an ONNX file and its nodes, without touching weights.

The new file is a sequence of byte ranges of the old one, without some fields and with new ones. Weights pass through
the kernel or a small buffer; external data is not moved. A file is replaced in one step or not at all.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Final

from optimum_htp.errors import FileChangedError, OnnxWriteError
from optimum_htp.onnxfile import reader
from optimum_htp.onnxfile.copying import copy_range
from optimum_htp.onnxfile.data_files import MovedData, check_size, moving_data
from optimum_htp.onnxfile.folder_lock import locked_for_replacing
from optimum_htp.onnxfile.graph import graph_of
from optimum_htp.onnxfile.outputs import ONNX, check_output
from optimum_htp.onnxfile.plan import NodeVisitor, Segment, length_of, node_entries, planned, property_field
from optimum_htp.onnxfile.replace_file import identity_of, replaced_atomically
from optimum_htp.onnxfile.shared import refuse_shared
from optimum_htp.onnxfile.structure import Graph, NodePlaces
from optimum_htp.onnxfile.wire import VARINT, ByteWindow, encode_bytes_field, encode_varint

__all__ = ["NodeVisitor", "OpenModel", "node_entries", "property_field", "rewrite_model"]

_CHUNK: Final = 1 << 16


def rewrite_model(
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, str] | None = None,
    drop: Callable[[str], bool] = lambda key: False,
    nodes: NodeVisitor | None = None,
    ir_version: int | None = None,
    output: str | os.PathLike[str] | None = None,
    external_data: bool = False,
    texts: Mapping[str, str | None] = MappingProxyType({}),
) -> None:
    """Change an ONNX file. Arguments and exceptions are those of `OpenModel.at` and `OpenModel.rewrite`."""
    with OpenModel.at(path) as model:
        model.rewrite(
            metadata=metadata,
            drop=drop,
            nodes=nodes,
            ir_version=ir_version,
            output=output,
            external_data=external_data,
            texts=texts,
        )


class OpenModel:
    """An open ONNX file. What is read and what is replaced is the same file.

    Attributes:
        path: The file, with links resolved.
        header, graph: Read on first use.
    """

    def __init__(self, path: Path, window: ByteWindow, reading: ExitStack, given: str | os.PathLike[str]) -> None:
        self.path = path
        self._given = given
        self._window = window
        self._reading = reading
        self._nodes = NodePlaces()
        self._seen = identity_of(os.fstat(window.descriptor)) if window.descriptor is not None else None

    @classmethod
    @contextmanager
    def at(cls, path: str | os.PathLike[str]) -> Iterator[OpenModel]:
        """Open a file. A link is followed; its target is replaced. Exceptions are those of `reader.opened`."""
        with ExitStack() as reading:
            source = Path(os.path.realpath(path))
            yield cls(source, reading.enter_context(reader.opened(source)), reading, path)

    @functools.cached_property
    def header(self) -> reader.ModelHeader:
        """All fields except the graph."""
        return reader.header_of(self._window)

    @functools.cached_property
    def graph(self) -> Graph:
        """The structure of the graph, without the weights."""
        self._window.chunk = _CHUNK
        return graph_of(self._window, self._nodes)

    def rewrite(
        self,
        *,
        metadata: Mapping[str, str] | None = None,
        drop: Callable[[str], bool] = lambda key: False,
        nodes: NodeVisitor | None = None,
        ir_version: int | None = None,
        output: str | os.PathLike[str] | None = None,
        external_data: bool = False,
        texts: Mapping[str, str | None] = MappingProxyType({}),
    ) -> None:
        """Set metadata and header fields, and close the file; every other byte stays the same.

        If nothing would change in place, nothing is written.

        Args:
            metadata: Model-level properties to set. Properties of the same key are replaced. Archives (`is_archive`)
                come last in the file.
            drop: Whether to remove the model-level property with a key.
            nodes: Called for every node, including those of subgraphs and functions, in order of the file.
            output: The output file, if not in place; the old file is then unchanged.
            external_data: Whether to move large initializers to a new file next to the model, `<model>_data`.
            texts: New values of the fields in `TEXT_FIELDS`; None removes the field.

        Raises:
            InvalidOnnxFileError: The file is not an ONNX model.
            ProtectedFileError: The output exists and is not an ONNX file, or is this file under another name.
            FileChangedError: The file was replaced or changed while it was read. Nothing was written.
            SharedFileError: The file is in a shared cache, such as the Hub's. Nothing was written.
            FileTooLargeError: The new file would have more than 2 GiB. Nothing was written.
            OnnxWriteError: The new file cannot be written. The old one is unchanged.
        """
        target = self.path if output is None else Path(os.path.realpath(output))
        if target != self.path:
            check_output(target, ONNX, inputs=[self.path])
        headers = {reader.TEXT_FIELDS[name]: text for name, text in texts.items()}
        new = {
            number: b"" if text is None else encode_bytes_field(number, text.encode())
            for number, text in headers.items()
        }
        if ir_version is not None:
            new[reader.IR_VERSION] = encode_varint(reader.IR_VERSION << 3 | VARINT) + encode_varint(ir_version)
        if nodes is not None or external_data:
            self._window.chunk = _CHUNK
        named = self._given if output is None else output
        if external_data:  # The data file is created before it is known whether the model changes.
            refuse_shared(named)
        moving = moving_data(target, self.path) if external_data else nullcontext()
        with moving as data:
            segments = planned(self._window, metadata or {}, drop, nodes, new, data, self._nodes)
            if target == self.path and segments == [(0, self._window.size)]:
                return
            refuse_shared(named)
            check_size(target, length_of(segments), self._window.size, moved=external_data)
            self._write(segments, target, data)

    def _write(self, segments: Sequence[Segment], target: Path, data: MovedData | None) -> None:
        try:
            if data is not None:
                data.write(self._window, self.path)
            with replaced_atomically(target, like=self.path, replacing=self._unchanged()) as stream:
                for segment in segments:
                    if isinstance(segment, bytes):
                        stream.write(segment)
                    else:
                        copy_range(self._window, stream, *segment)
                self._check()
                self._reading.close()  # Windows cannot replace an open file.
        except OnnxWriteError:
            raise
        except OSError as error:
            reason = error.strerror or error
            raise OnnxWriteError(f"{target} cannot be written: {reason}. Nothing was changed.") from error

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        """Check the file at the path while no other writer of this package can replace it."""
        with locked_for_replacing(self.path):
            self._check()
            yield

    def _check(self) -> None:
        """Check that the file at the path is the one that was read."""
        try:
            there = identity_of(self.path.stat())
        except FileNotFoundError:
            there = None
        if there != self._seen:
            raise FileChangedError(
                f"Another process replaced or changed {self.path} while it was read. Nothing was written. Try again."
            )
