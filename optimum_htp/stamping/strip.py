"""Taking out of an ONNX file what this package put into it."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from optimum_htp.errors import OnnxWriteError
from optimum_htp.hierarchy.tags import MODEL_KEYS, untagged
from optimum_htp.onnxfile import OpenModel, contained_files, replaced_atomically
from optimum_htp.onnxfile.inside import path_below
from optimum_htp.onnxfile.shared import refuse_shared
from optimum_htp.stamping.originals import original_of

__all__ = ["strip_metadata"]


def strip_metadata(path: str | os.PathLike[str], output: str | os.PathLike[str] | None = None) -> int:
    """Remove every key of ours from a file and its nodes, and give back what stamps and tags have replaced.

    Args:
        path: The file.
        output: Where to write instead of in place; external data is copied along.

    Returns:
        How many keys were removed from the file and its nodes.

    Raises:
        OnnxFileNotFoundError, InvalidOnnxFileError: There is no ONNX model at the path.
        OnnxWriteError: The result cannot be written. What was there still is.
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
            _copy_external_data(Path(path), Path(output))
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


def _copy_external_data(path: Path, output: Path) -> None:
    """Copy the external data of a file to where its copy will look for it.

    Raises:
        InvalidOnnxFileError: The data of a file lies outside its folder.
        OnnxWriteError: There is another file at its place.
    """
    if path.resolve().parent == output.resolve().parent:
        return
    refuse_shared(output)
    for name in contained_files(path):
        source, target = path.parent / name, output.parent / name
        try:
            path_below(output.parent, Path(name))
        except OSError as error:
            raise OnnxWriteError(f"{error}. Name another output folder.") from error
        if target.exists():
            if filecmp.cmp(source, target, shallow=False):
                continue
            raise OnnxWriteError(
                f"{target} is there already, and is not the data of {path}. Name another output folder."
            )
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with replaced_atomically(target, like=source) as stream, source.open("rb") as data:
                shutil.copyfileobj(data, stream, 1 << 20)
        except OSError as error:
            raise OnnxWriteError(f"{target} cannot be written: {error}.") from error
