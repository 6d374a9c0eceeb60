"""Programs of transformers' `OnnxExporter` (`onnx_ir.Model`) as files: without paths of this machine, weights once.

`ExportedModel.save_pretrained` writes the weights of each component to a file of its own, and beside each node where
in the Python sources it came from: most of a small model's file, and the absolute paths of the machine.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from optimum_htp.hierarchy.assign import DYNAMO_SCOPES

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["DATA_FILE", "clean", "fits_inline", "save_inline", "save_programs"]

DATA_FILE: Final = "model.onnx.data"
_NAMESPACE: Final = "namespace"
_PACKAGES: Final = "pkg."  # begins the keys of what PyTorch and onnxscript note
_INLINE: Final = (1 << 31) - (1 << 27)  # bytes of weights; a file of 2 GiB also holds its graph and what is embedded
_OUTSIDE: Final = 1 << 10  # bytes of a tensor from which it goes to the data file
_PAGE: Final = 1 << 12


def save_programs(programs: Mapping[str, onnx_ir.Model], folder: Path) -> None:
    """Write each program to `<name>.onnx`: one alone with its weights, larger or several ones with a data file.

    Several share that file: a weight that several use, or that is tied, is in it once.

    Args:
        programs: By name of the component. They are changed: what is not to be saved is taken out.
        folder: Where to.
    """
    for program in programs.values():
        clean(program)
    if len(programs) == 1:
        name, program = next(iter(programs.items()))
        if fits_inline(program):
            save_inline(program, folder / f"{name}.onnx")
            return
    with (folder / DATA_FILE).open("wb") as stream:
        places: dict[tuple[Any, ...], int] = {}
        for program in programs.values():
            for value, tensor in _weights(program):
                if tensor.nbytes >= _OUTSIDE:
                    value.const_value = _moved(tensor, stream, places, folder)
    for name, program in programs.items():
        _save(program, folder / f"{name}.onnx")


def fits_inline(program: onnx_ir.Model) -> bool:
    """Whether a program and its weights are one file."""
    return sum(int(tensor.nbytes) for _, tensor in _weights(program)) < _INLINE


def save_inline(program: onnx_ir.Model, path: Path) -> None:
    """Write a program to one file, weights included."""
    _save(program, path)


def clean(program: onnx_ir.Model) -> None:
    """Take out of a program what PyTorch notes beside its nodes and values, but the modules around each node."""
    graphs: list[Any] = [*program.graphs(), *program.functions.values()]
    for graph in graphs:
        _forget(graph.metadata_props)
        for node in graph:
            scopes = node.metadata_props.get(DYNAMO_SCOPES)
            _forget(node.metadata_props)
            node.metadata_props.pop(_NAMESPACE, None)
            if scopes is not None:
                node.metadata_props[DYNAMO_SCOPES] = scopes
            for value in node.outputs:
                _forget(value.metadata_props)
        for value in (*graph.inputs, *getattr(graph, "initializers", {}).values()):
            _forget(value.metadata_props)


def _forget(properties: Any) -> None:
    for key in [key for key in properties if key.startswith(_PACKAGES)]:
        del properties[key]


def _weights(program: onnx_ir.Model) -> Iterator[tuple[Any, Any]]:
    """Yield the initializers of a program, with their tensors."""
    for graph in program.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value, value.const_value


def _moved(tensor: Any, stream: BinaryIO, places: dict[tuple[Any, ...], int], folder: Path) -> onnx_ir.ExternalTensor:
    """Return a tensor as one of the data file, which is written to that where it is not in it yet."""
    import onnx_ir

    content = tensor.tobytes()
    key = (len(content), hashlib.sha256(content).digest())
    if key not in places:
        stream.seek(-stream.tell() % (_PAGE if len(content) >= _PAGE else 16), os.SEEK_CUR)
        places[key] = stream.tell()
        stream.write(content)
    return onnx_ir.ExternalTensor(
        DATA_FILE, places[key], len(content), tensor.dtype, shape=tensor.shape, name=tensor.name, base_dir=folder
    )


def _save(program: onnx_ir.Model, path: Path) -> None:
    import onnx_ir

    onnx_ir.save(program, path)
