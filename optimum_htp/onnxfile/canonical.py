"""Makes two exports of the same model equal byte for byte.

Optimum merges decoders with sets of initializers. So the name that equal initializers get, and their order, differ
from process to process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from optimum_htp.onnxfile.external import external_files

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

__all__ = ["canonicalize_initializers", "sha256_of", "sha256_of_file"]


def canonicalize_initializers(path: Path) -> None:
    """Name the initializers of an ONNX file after their first use, and sort them and their data in that order.

    This loads the weights into memory.
    """
    import onnx

    data = external_files(path)
    model = onnx.load(path)
    names = _names_by_first_use(model.graph)
    for node in _nodes(model.graph):
        node.input[:] = [names.get(name, name) for name in node.input]
    order = {name: index for index, name in enumerate(names)}
    ordered = sorted(model.graph.initializer, key=lambda tensor: (order.get(tensor.name, len(order)), tensor.name))
    copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in ordered]
    del model.graph.initializer[:]
    for tensor in copies:
        tensor.name = names.get(tensor.name, tensor.name)
        model.graph.initializer.append(tensor)
    for name in data:
        (path.parent / name).unlink()
    if data:
        onnx.save(model, path, save_as_external_data=True, location=data[0], convert_attribute=True)
    else:
        onnx.save(model, path)


def _names_by_first_use(graph: GraphProto) -> dict[str, str]:
    """Return the new name of each initializer: the name of the first node that uses it, and the input index."""
    fixed = {value.name for value in (*graph.input, *graph.output)}
    initializers = {tensor.name for tensor in graph.initializer} - fixed
    taken = {name for node in _nodes(graph) for name in (*node.input, *node.output)} - initializers | fixed
    names: dict[str, str] = {}
    for node in _nodes(graph):
        for position, name in enumerate(node.input):
            if name in initializers and name not in names:
                base = new = f"{node.name or node.op_type}.{position}"
                count = 1
                while new in taken:
                    count += 1
                    new = f"{base}.{count}"
                taken.add(new)
                names[name] = new
    return names


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Yield the nodes of a graph and of its subgraphs, in the order of the file."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for subgraph in (attribute.g, *attribute.graphs):
                yield from _nodes(subgraph)


_CHUNK: Final = 1 << 20


def sha256_of(stream: IO[bytes], progress: Callable[[int], object] | None = None) -> str:
    """Return the sha256 of the rest of a stream, in hexadecimal. `progress` gets the number of bytes of each piece."""
    digest = hashlib.sha256()
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
        if progress is not None:
            progress(len(chunk))
    return digest.hexdigest()


def sha256_of_file(path: Path, progress: Callable[[int], object] | None = None) -> str:
    """Return the sha256 of a file, as `sha256_of` does."""
    with path.open("rb") as file:
        return sha256_of(file, progress)
