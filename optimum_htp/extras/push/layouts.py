"""File layouts of a repo: as on disk, or as transformers.js expects.

transformers.js reads configs from the root and models from `onnx/`: `model.onnx`, or for another type of weights
`model_quantized.onnx`, `model_fp16.onnx`, `model_q4.onnx`.
Source: https://huggingface.co/docs/transformers.js/guides/dtypes
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Final

from optimum_htp.errors import PushError
from optimum_htp.extras.contents import OnnxFile
from optimum_htp.onnxfile import external_files, read_graph, rename_model
from optimum_htp.onnxfile.copying import link_or_copy
from optimum_htp.onnxfile.operators import PACKED, is_quantization, number_of_bits

__all__ = ["LAYOUTS", "OPTIMUM", "TRANSFORMERS_JS", "web_file"]

OPTIMUM: Final = "optimum"
TRANSFORMERS_JS: Final = "transformers.js"
LAYOUTS: Final = (OPTIMUM, TRANSFORMERS_JS)

_FOLDER: Final = "onnx"
_SUFFIXES: Final = ("_quantized", "_int8", "_uint8", "_fp16", "_q4f16", "_q4", "_bnb4")


def web_file(file: OnnxFile, workspace: Path) -> dict[str, Path]:
    """Return an ONNX file and its external data, by their names for transformers.js.

    Args:
        file: The file. If its data must be renamed, a changed copy is written to the workspace.
        workspace: An empty folder.

    Raises:
        PushError: transformers.js cannot load the file.
    """
    if file.record.export_library == "diffusers" or file.record.submodule is not None:
        raise PushError(f"transformers.js cannot load {file.path}. Omit --layout {TRANSFORMERS_JS}.")
    name = PurePosixPath(file.name).name if file.record.onnx_files else f"model{_weights(file)}.onnx"
    source = file.path
    data = file.data
    if data and name != source.name:
        source = workspace / file.path.name
        source.write_bytes(file.path.read_bytes())  # a file is small without its data
        for location in data:
            (workspace / location).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy((file.path.parent / location).resolve(), workspace / location)
        rename_model(source, workspace / name)
        source = workspace / name
        data = external_files(source)
    folder = PurePosixPath(_FOLDER)
    found = {(folder / location).as_posix(): source.parent / location for location in data}
    return {(folder / name).as_posix(): source, **found}


def _weights(file: OnnxFile) -> str:
    """Return the suffix of transformers.js for the type of the weights, from the file name or the graph."""
    stem = PurePosixPath(file.name).stem
    named = next((suffix for suffix in _SUFFIXES if stem.endswith(suffix)), None)
    if named is not None:
        return named
    graph = read_graph(file.path)
    operators = {node.op_type for node in graph.nodes}
    if "MatMulBnb4" in operators:
        return "_bnb4"
    if any(node.op_type in PACKED and number_of_bits(node.op_type, node.integers) == 4 for node in graph.nodes):
        return "_q4"
    if any(is_quantization(operator) for operator in operators):
        return "_quantized"
    kinds = Counter(tensor.dtype for tensor in graph.initializers)
    return "_fp16" if kinds["float16"] > kinds["float32"] else ""
