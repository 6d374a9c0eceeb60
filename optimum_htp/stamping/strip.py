"""Remove from an ONNX file everything that this package wrote into it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from optimum_htp.hierarchy.tags import MODEL_KEYS, untagged, without_traces
from optimum_htp.onnxfile import OpenModel
from optimum_htp.onnxfile.data_files import copy_data
from optimum_htp.stamping.originals import original_of

__all__ = ["strip_metadata", "strip_stack_traces"]


def strip_metadata(path: str | os.PathLike[str], output: str | os.PathLike[str] | None = None) -> int:
    """Remove all keys of this package from a file and its nodes, and restore what stamps and tags replaced.

    Args:
        path: The file.
        output: The output file; None to write in place. External data is copied too.

    Returns:
        The number of keys that were removed from the file and its nodes.

    Raises:
        OnnxFileNotFoundError, InvalidOnnxFileError: There is no ONNX model at the path.
        OnnxWriteError: The result cannot be written. Existing files are unchanged.
    """
    with OpenModel.at(path) as model:
        header = model.header
        before = original_of(header)
        ours = before.dropped | (MODEL_KEYS & header.metadata.keys())
        removed = len(ours - before.replaced.keys())

        def visit(known: Mapping[str, str]) -> Mapping[str, str]:
            nonlocal removed
            plain = untagged(known)
            removed += len(known.keys() - plain.keys())
            return plain

        if output is not None:
            copy_data(Path(path), Path(output))
        model.rewrite(
            metadata=before.replaced,
            drop=ours.__contains__,
            nodes=visit,
            ir_version=before.ir_version,
            output=output,
            texts={
                name: before.texts.get(name) for name in header.texts if before.texts.get(name) != header.texts[name]
            },
        )
    return removed


def strip_stack_traces(path: str | os.PathLike[str], output: str | os.PathLike[str] | None = None) -> int:
    """Remove PyTorch's stack traces from the nodes of a file. They contain paths of the exporting machine.

    Keys of this package are kept. Arguments and exceptions are those of `strip_metadata`.

    Returns:
        The number of nodes with a stack trace.
    """
    removed = 0

    def visit(known: Mapping[str, str]) -> Mapping[str, str]:
        nonlocal removed
        plain = without_traces(known)
        removed += len(known) - len(plain)
        return plain

    with OpenModel.at(path) as model:
        if output is not None:
            copy_data(Path(path), Path(output))
        model.rewrite(nodes=visit, output=output)
    return removed
