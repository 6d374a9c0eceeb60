"""Taking out of an ONNX file what this package put into it."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from optimum_htp.errors import InvalidOnnxFileError, OnnxWriteError
from optimum_htp.metadata import PREFIX
from optimum_htp.onnxfile import (
    external_files,
    read_graph,
    read_header,
    replaced_atomically,
    rewrite_model,
)
from optimum_htp.stamp import AUTHOR, DOMAINS, LICENSE, PRODUCER, is_our_doc_string

__all__ = ["strip_metadata"]

_TAG_PREFIX: Final = "htp."
_TAG_KEYS: Final = frozenset({"namespace"})


def strip_metadata(path: str | os.PathLike[str], output: str | os.PathLike[str] | None = None) -> int:
    """Remove every key of ours from a file and its nodes, and give it back its producer.

    Args:
        path: The file.
        output: Where to write instead of in place; external data is copied along.

    Returns:
        How many keys were removed.

    Raises:
        OnnxFileNotFoundError, InvalidOnnxFileError: There is no ONNX model at the path.
        OnnxWriteError: The result cannot be written. What was there still is.
    """
    path = Path(path)
    header = read_header(path)
    ours = {key for key in header.metadata if key.startswith((PREFIX, _TAG_PREFIX))}
    if header.metadata.get(f"{PREFIX}license") == header.metadata.get(LICENSE):
        ours.add(LICENSE)
    if header.metadata.get(f"{PREFIX}hub_id", "").startswith(f"{header.metadata.get(AUTHOR)}/"):
        ours.add(AUTHOR)
    ours &= set(header.metadata)
    texts: dict[str, Any] = {}
    if header.producer_name == PRODUCER:
        producer = header.metadata.get(f"{PREFIX}original_producer", "")
        name, _, version = producer.rpartition(" ") if " " in producer else (producer, "", "")
        texts |= {"producer_name": name, "producer_version": version}
    if ours and header.domain in DOMAINS.values():
        texts["domain"] = ""
    if is_our_doc_string(header.doc_string):
        texts["doc_string"] = ""
    tagged = sum(len(_foreign(node.metadata)) != len(node.metadata) for node in read_graph(path).nodes)
    if output is not None:
        _copy_external_data(path, Path(output))
    if ours or tagged or texts or output is not None:
        rewrite_model(path, drop=ours.__contains__, nodes=_foreign if tagged else None, output=output, **texts)
    return len(ours) + tagged


def _foreign(metadata: Mapping[str, str]) -> Mapping[str, str]:
    """Return a node's metadata without ours."""
    if not any(key.startswith(_TAG_PREFIX) for key in metadata):
        return metadata
    return {key: value for key, value in metadata.items() if not key.startswith(_TAG_PREFIX) and key not in _TAG_KEYS}


def _copy_external_data(path: Path, output: Path) -> None:
    """Copy the external data of a file to where its copy will look for it.

    Raises:
        InvalidOnnxFileError: A location leads out of the file's folder.
        OnnxWriteError: There is another file at its place.
    """
    if path.resolve().parent == output.resolve().parent:
        return
    for name in external_files(path):
        if not name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise InvalidOnnxFileError(f"{path} keeps data at {name!r}, outside its folder: it is not copied.")
        source, target = path.parent / name, output.parent / name
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
