"""ONNX files at the wire level: read and stamped at the speed of the disk, without reading weights.

This package knows the ONNX format only, and nothing of Hugging Face, PyTorch or ONNX Runtime.
"""

from optimum_htp.onnxfile.canonical import canonicalize_initializers
from optimum_htp.onnxfile.external import contained_files, external_files, is_contained, rename_model
from optimum_htp.onnxfile.graph import read_graph
from optimum_htp.onnxfile.reader import (
    TEXT_FIELDS,
    ModelHeader,
    read_archive,
    read_header,
    read_metadata,
    read_signature,
)
from optimum_htp.onnxfile.replace_file import replaced_atomically
from optimum_htp.onnxfile.structure import Graph, Initializer, Node
from optimum_htp.onnxfile.tensors import TensorSpec
from optimum_htp.onnxfile.without_weights import ModelWithoutWeights, read_without_weights
from optimum_htp.onnxfile.writer import NodeVisitor, OpenModel, rewrite_model

__all__ = [
    "TEXT_FIELDS",
    "Graph",
    "Initializer",
    "ModelWithoutWeights",
    "ModelHeader",
    "Node",
    "NodeVisitor",
    "OpenModel",
    "TensorSpec",
    "contained_files",
    "external_files",
    "is_contained",
    "read_archive",
    "read_graph",
    "read_header",
    "read_without_weights",
    "read_metadata",
    "read_signature",
    "rename_model",
    "replaced_atomically",
    "rewrite_model",
    "canonicalize_initializers",
]
