"""A model without its weights: every message as it is, and of large tensors only name, type and shape.

It is a ModelProto of the size of its nodes, whatever the weights take, that onnx can parse and infer shapes on.
"""

from __future__ import annotations

from typing import Final

from optimum_htp.onnxfile.reader import DOC_STRING, METADATA_PROPS
from optimum_htp.onnxfile.structure import MAX_DEPTH, MESSAGES
from optimum_htp.onnxfile.wire import LENGTH_DELIMITED, ByteWindow, Field, encode_bytes_field, walk

__all__ = ["skeleton_of"]

# TensorProto: float_data, int32_data, string_data, int64_data, raw_data, double_data, uint64_data
_CONTENT: Final = frozenset({4, 5, 6, 7, 9, 10, 11})
_KEPT: Final = 1 << 10  # bytes of a tensor: shapes and axes are far smaller
_LEFT_OUT: Final = frozenset({METADATA_PROPS, DOC_STRING})  # of the model, where files may be embedded


def skeleton_of(window: ByteWindow) -> bytes:
    """Return an ONNX file as an encoded ModelProto without the content of large tensors."""
    return _lean(window, Field(0, LENGTH_DELIMITED, 0, 0, window.size), "model", 0)


def _lean(window: ByteWindow, message: Field, kind: str, depth: int) -> bytes:
    if depth > MAX_DEPTH:
        raise window.invalid(f"graphs are nested more than {MAX_DEPTH} deep")
    children = MESSAGES.get(kind, {})
    pieces: list[bytes] = []
    for part in walk(window, message.payload, message.end):
        inner = children.get(part.number) if part.wire_type == LENGTH_DELIMITED else None
        if (kind == "tensor" and part.number in _CONTENT) or (kind == "model" and part.number in _LEFT_OUT):
            continue
        if inner is None or part.end - part.start <= _KEPT:
            pieces.append(window.read(part.start, part.end - part.start))
        else:
            pieces.append(encode_bytes_field(part.number, _lean(window, part, inner, depth + 1)))
    return b"".join(pieces)
