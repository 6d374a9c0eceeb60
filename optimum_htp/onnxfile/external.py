"""External data: the files beside an ONNX file that hold its large tensors.

A tensor that lives outside says where in `external_data`, as `location` relative to the ONNX file.
Source: https://github.com/onnx/onnx/blob/main/docs/ExternalData.md
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from optimum_htp.errors import InvalidOnnxFileError
from optimum_htp.onnxfile.graph import MAX_DEPTH, MESSAGES
from optimum_htp.onnxfile.reader import entry, opened
from optimum_htp.onnxfile.wire import LENGTH_DELIMITED, ByteWindow, Field, walk

__all__ = ["contained_files", "external_files", "is_contained", "rename_model"]

_EXTERNAL_DATA: Final = 13  # in TensorProto


def external_files(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return the external data files that an ONNX file refers to, in order of appearance.

    Steps over every tensor's content; reads no weights.
    """
    with opened(path, chunk=1 << 16) as window:
        whole = Field(0, LENGTH_DELIMITED, 0, 0, window.size)
        return tuple(dict.fromkeys(_locations(window, whole, "model")))


def is_contained(location: str) -> bool:
    """Whether a location is one that ONNX allows: a relative path that does not lead out of the model's folder.

    This and `contained_files` are the one rule for everything that follows a location.
    """
    parts = re.split(r"[/\\]", location)
    return (
        location.isprintable()
        and all(part not in ("", ".", "..") for part in parts)
        and not re.match(r"[A-Za-z]:", location)
    )


def contained_files(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return the external data files of an ONNX file, where all of them lie in its folder.

    A link may lead to another folder only if the ONNX file itself is a link to the same one, as in the Hub's cache.

    Raises:
        InvalidOnnxFileError: One lies elsewhere.
    """
    path = Path(path)
    names = external_files(path)
    homes = {path.parent.resolve(), path.resolve().parent}
    for name in names:
        if not is_contained(name) or homes.isdisjoint((path.parent / name).resolve().parents):
            raise InvalidOnnxFileError(
                f"{path} keeps data at {name!r}, outside its folder, which ONNX does not allow. It is not followed."
            )
    return names


def rename_model(path: Path, target: Path) -> None:
    """Rename an ONNX file inside its folder, and its external data file to `<target>_data`.

    The data file is renamed too because two models in a folder cannot both own `model.onnx_data`; that suffix
    is the one that Optimum fetches from a Hub. Data that is named after the model in another way stays so.
    """
    locations = external_files(path)
    if locations:
        import onnx

        model = onnx.load(path, load_external_data=False)
        new = {
            old: target.name + old.removeprefix(path.name)
            if old.startswith(f"{path.name}.")
            else _data_name(target.name, index)
            for index, old in enumerate(locations)
        }
        for tensor in onnx.external_data_helper._get_all_tensors(model):
            for item in tensor.external_data:
                if item.key == "location":
                    item.value = new[item.value]
        onnx.save(model, path)
        for old, name in new.items():
            (path.parent / old).rename(target.parent / name)
    path.rename(target)


def _data_name(model: str, index: int) -> str:
    return f"{model}_data" if index == 0 else f"{model}_data_{index}"


def _locations(window: ByteWindow, message: Field, kind: str, depth: int = 0) -> Iterator[str]:
    if depth > MAX_DEPTH:
        raise window.invalid(f"graphs are nested more than {MAX_DEPTH} deep")
    places = MESSAGES.get(kind, {})
    for part in walk(window, message.payload, message.end):
        if part.wire_type != LENGTH_DELIMITED:
            continue
        if kind == "tensor":
            if part.number == _EXTERNAL_DATA:
                key, value = entry(window, part)
                if key == "location":
                    yield value
        elif part.number in places:
            yield from _locations(window, part, places[part.number], depth + 1)
