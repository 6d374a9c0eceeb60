"""Saves programs of transformers' `OnnxExporter` (`onnx_ir.Model`): without local paths, and with shared weights.

`ExportedModel.save_pretrained` writes a copy of the weights for each component, and stack traces with absolute paths
for each node, which are most of a small model's file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from optimum_htp.hierarchy.assign import DYNAMO_SCOPES
from optimum_htp.libraries.sample_inputs import TEXT_INPUTS
from optimum_htp.masking import get_logger

if TYPE_CHECKING:
    import onnx_ir

__all__ = [
    "DATA_FILE",
    "INLINE",
    "clean",
    "fits_inline",
    "manifest_of_components",
    "name_sizes",
    "save_program",
    "save_programs",
    "warn_of_fixed_sizes",
]

logger = get_logger(__name__)

DATA_FILE: Final = "model.onnx.data"
INLINE: Final = (1 << 31) - (1 << 27)
"""Bytes of weights that a file may contain. A file of 2 GiB also contains its graph and the embedded files."""
_NAMESPACE: Final = "namespace"
_PACKAGES: Final = "pkg."  # Start of the metadata keys of PyTorch and onnxscript.
_OUTSIDE: Final = 1 << 10  # Bytes of a tensor from which it is stored in the data file.
_PAGE: Final = 1 << 12
_SYMBOL: Final = re.compile(r"\bs\d+\b")
_STEP: Final = "decode"
_BATCH: Final = "batch_size"
_ENCODER: Final = "encoder_sequence_length"
_MASK: Final = "attention_mask"
# The sizes of inputs, by a part of the input's name; the first match is used.
_SIZES_OF_MASK: Final = (_BATCH, "past_sequence_length + 1")  # in a decoding step
_ENCODED: Final = ("cross_attention_cache", "encoder_outputs")  # Parts of the inputs of a decoder with an encoder.
_SIZES: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("cross_attention_cache", (_BATCH, "", _ENCODER)),
    ("cache", (_BATCH, "", "past_sequence_length")),
    ("encoder_outputs", (_BATCH, _ENCODER, "hidden_size")),
    ("decoder_input_ids", (_BATCH, "decoder_sequence_length")),
    ("input_ids", (_BATCH, "sequence_length")),
    ("inputs_embeds", (_BATCH, "sequence_length")),
    (_MASK, (_BATCH, "sequence_length")),
    ("token_type_ids", (_BATCH,)),
    ("pixel_values", (_BATCH, "num_channels", "height", "width")),
    ("input_features", (_BATCH, "feature_size", "nb_max_frames")),
    ("input_values", (_BATCH, "sequence_length")),
)


def save_programs(programs: Mapping[str, onnx_ir.Model], folder: Path) -> None:
    """Write each program to `<name>.onnx`.

    A single program below 2 GiB contains its weights. Otherwise all programs share one data file, in which equal
    weights are stored once. The programs are cleaned in place; their weights stay where they are.
    """
    for program in programs.values():
        clean(program)
        name_sizes(program)
    if len(programs) == 1:
        name, program = next(iter(programs.items()))
        if fits_inline(program):
            save_program(program, folder / f"{name}.onnx")
            return
    weights = [(value, tensor) for program in programs.values() for value, tensor in _weights(program)]
    try:
        with (folder / DATA_FILE).open("wb") as stream:
            places: dict[tuple[Any, ...], int] = {}
            for value, tensor in weights:
                if tensor.nbytes >= _OUTSIDE:
                    value.const_value = _moved(tensor, stream, places, folder)
        for name, program in programs.items():
            save_program(program, folder / f"{name}.onnx")
    finally:
        for value, tensor in weights:
            value.const_value = tensor


def fits_inline(program: onnx_ir.Model) -> bool:
    """Whether a program and its weights fit into one file."""
    return sum(int(tensor.nbytes) for _, tensor in _weights(program)) < INLINE


def save_program(program: onnx_ir.Model, path: Path) -> None:
    """Write a program to a file, with its weights unless they refer to a data file."""
    import onnx_ir

    onnx_ir.save(program, path)


def clean(program: onnx_ir.Model) -> None:
    """Remove PyTorch's metadata from nodes and values, except the module scopes of each node."""
    functions = program.functions.values()
    graphs: list[Any] = [
        *program.graphs(),
        *functions,
        *(one for function in functions for one in function.subgraphs()),
    ]
    _forget(program.metadata_props)
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


def name_sizes(program: onnx_ir.Model) -> None:
    """Name dynamic sizes as Optimum's exporter does (`batch_size`). PyTorch numbers them (`s72`)."""
    names: dict[str, str] = {}
    inputs = [value.name or "" for value in program.graph.inputs]
    has_encoder = any(part in name for part in _ENCODED for name in inputs)
    masks: dict[str, tuple[str, ...]] = {}
    if any("cache" in name for name in inputs):
        masks["decoder_attention_mask" if has_encoder else _MASK] = _SIZES_OF_MASK
    if has_encoder:
        masks[_MASK] = (_BATCH, _ENCODER)
    for value in program.graph.inputs:
        known = next((sizes for part, sizes in _SIZES if part in (value.name or "")), ())
        known = masks.get(value.name or "", known)
        for symbol, name in zip(_symbols(value), known, strict=False):
            alike = name in (_BATCH, _ENCODER) or value.name == _MASK  # PyTorch may have numbered these sizes twice.
            if _SYMBOL.fullmatch(symbol) and name and (alike or name not in names.values()):
                names.setdefault(symbol, name)
    for graph in program.graphs():
        for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
            if value.shape is not None and any(_SYMBOL.search(symbol) for symbol in _symbols(value)):
                value.shape = _renamed(value.shape, names)


def warn_of_fixed_sizes(name: str, programs: Mapping[str, onnx_ir.Model]) -> None:
    """Warn if text inputs of programs have fixed sizes: a model's code can fix them.

    The inputs of a decoding step have one token in any case.
    """
    fixed = (
        value
        for component, program in programs.items()
        for value in program.graph.inputs
        if component != _STEP
        and value.name in TEXT_INPUTS
        and any(isinstance(size, int) for size in value.shape or ())
    )
    if (value := next(fixed, None)) is not None:
        logger.warning(
            "The graph of %s accepts %s of %s only, because the model's code fixed a size during tracing. Set it with "
            "--batch-size and --sequence-length.",
            name,
            value.name,
            " x ".join(str(size) for size in value.shape or ()),
        )


def _symbols(value: onnx_ir.Value) -> list[str]:
    """Return the sizes of a value as text, empty where they are numbers."""
    return ["" if isinstance(size, int) else str(size.value) for size in value.shape or ()]


def _renamed(shape: onnx_ir.Shape, names: Mapping[str, str]) -> onnx_ir.Shape:
    import onnx_ir

    def renamed(size: Any) -> Any:
        if isinstance(size, int) or size.value is None:
            return size
        text = _SYMBOL.sub(lambda found: names.get(found[0], found[0]), str(size.value))
        return int(text) if text.isdigit() else text

    return onnx_ir.Shape([renamed(size) for size in shape])


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
    """Return a tensor that refers to the data file; append its content to that file if it is new."""
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


def manifest_of_components(components: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `ExportedModel.save_pretrained` writes about components, from the exporter's metadata of each."""
    from transformers.exporters.base import EXPORT_SCHEMA_VERSION
    from transformers.exporters.configs import ExportFormat

    return {
        "schema_version": EXPORT_SCHEMA_VERSION,
        "export_format": str(ExportFormat.ONNX),
        "components": {
            name: {"file": f"{name}.onnx", "metadata": dataclasses.asdict(metadata)}
            for name, metadata in components.items()
        },
    }
