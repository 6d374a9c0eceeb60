"""External data: the files next to an ONNX file that contain its large tensors.

`external_data` of such a tensor contains its `location`, relative to the ONNX file.
Source: https://github.com/onnx/onnx/blob/main/docs/ExternalData.md
"""

from __future__ import annotations

import os
import posixpath
import re
import secrets
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from optimum_htp.errors import InvalidOnnxFileError
from optimum_htp.onnxfile.reader import entry, opened
from optimum_htp.onnxfile.shared import refuse_shared
from optimum_htp.onnxfile.structure import MAX_DEPTH, MESSAGES
from optimum_htp.onnxfile.wire import LENGTH_DELIMITED, ByteWindow, Field, walk

__all__ = ["contained_files", "external_files", "external_files_of", "plain_location", "is_contained", "rename_model"]

_EXTERNAL_DATA: Final = 13  # Field of TensorProto.
_CONTROLS: Final = ("Cc", "Cs", "Zl", "Zp")  # Unicode categories of characters that file names do not need.
_SCANNED: Final = 1 << 10  # Bytes of a message that are searched at once.
_SHOWN: Final = 20  # Characters of a number in a message.


def external_files(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return the external data files of an ONNX file, in order of appearance.

    Skips the content of all tensors, so it reads no weights.
    """
    with opened(path, chunk=1 << 16) as window:
        return external_files_of(window)


def external_files_of(window: ByteWindow) -> tuple[str, ...]:
    """Return the external data files of an open ONNX file."""
    window.begin_pass()
    whole = Field(0, LENGTH_DELIMITED, 0, 0, window.size)
    return tuple(dict.fromkeys(_locations(window, whole, "model")))


def is_contained(location: str) -> bool:
    """Whether ONNX allows a location: a relative path that does not lead out of the model's folder.

    This function and `contained_files` are the only rule for locations.
    """
    parts = re.split(r"[/\\]", location)
    return not (
        any(unicodedata.category(character) in _CONTROLS for character in location)
        or parts[0] == ""
        or parts[-1] in ("", ".")
        or ".." in parts
        or re.match(r"[A-Za-z]:", location)
    )


def plain_location(location: str) -> str:
    """Return a location without the `.` and additional `/` that ONNX allows."""
    return posixpath.normpath(location)


def contained_files(path: str | os.PathLike[str], window: ByteWindow | None = None) -> tuple[str, ...]:
    """Return the external data files of an ONNX file, after a check that all of them are in its folder.

    A link may lead to another folder only if the ONNX file itself is a link to the same folder, as in the Hub's
    cache. The names are in the form of `plain_location`, without repetition.

    Args:
        path: The ONNX file.
        window: The same file, if it is already open.

    Raises:
        InvalidOnnxFileError: A file is elsewhere.
    """
    path = Path(path)
    names = external_files(path) if window is None else external_files_of(window)
    homes = {path.parent.resolve(), path.resolve().parent}
    for name in names:
        if not is_contained(name) or homes.isdisjoint((path.parent / name).resolve().parents):
            raise InvalidOnnxFileError(
                f"{path} has external data at {name!r}, outside its folder, which ONNX does not allow."
            )
    return tuple(dict.fromkeys(map(plain_location, names)))


def data_file(path: Path, location: str) -> Path:
    """Return the external data file at a location that `contained_files` allows.

    Raises:
        InvalidOnnxFileError: It does not exist.
    """
    for folder in (path.parent, path.resolve().parent):
        if (folder / location).is_file():
            return folder / location
    raise InvalidOnnxFileError(
        f"{path} has external data in {location!r}, which does not exist. Download or export it again."
    )


def data_range(path: Path, entries: Mapping[str, str], file: Path, size: int) -> tuple[int, int]:
    """Return the offsets of the content of a tensor in an external data file.

    Args:
        path: The ONNX file.
        entries: The tensor's `external_data`.
        file: The data file.
        size: Its length in bytes.

    Raises:
        InvalidOnnxFileError: The data file is too short.
    """
    texts = entries.get("offset") or "0", entries.get("length") or ""
    start = int(texts[0]) if _is_number(texts[0]) else -1
    end = start + int(texts[1]) if _is_number(texts[1]) else size
    if not 0 <= start <= end <= size:
        raise InvalidOnnxFileError(
            f"{file} has {size} bytes, but a tensor of {path} begins there at byte {texts[0][:_SHOWN]!r}: the two "
            "files do not match, or one is truncated. Download or export them again."
        )
    return start, end


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < _SHOWN


def rename_model(path: Path, target: Path) -> None:
    """Rename an ONNX file inside its folder, and its external data file to `<target>_data`.

    The data file is renamed too, because two models in a folder cannot both own `model.onnx_data`. Optimum downloads
    files with this suffix from a Hub. Data with another name after the model keeps its form. No other process may use
    the folder, because several files change one after the other.
    """
    refuse_shared(path)
    locations = external_files(path)
    if locations:
        import onnx

        model = onnx.load(path, load_external_data=False)
        files = list(dict.fromkeys(os.path.normpath(location) for location in locations))
        names = {
            file: target.name + file.removeprefix(path.name)
            if file.startswith(f"{path.name}.")
            else _data_name(target.name, index)
            for index, file in enumerate(files)
        }
        new = {location: names[os.path.normpath(location)] for location in locations}
        for tensor in onnx.external_data_helper._get_all_tensors(model):
            for item in tensor.external_data:
                if item.key == "location":
                    item.value = new[item.value]
        onnx.save(model, path)
        _rename_all({path.parent / old: target.parent / name for old, name in names.items()})
    path.rename(target)


def _rename_all(names: Mapping[Path, Path]) -> None:
    """Rename files, some of which may have the new names of others."""
    if names.keys().isdisjoint(names.values()):
        aside = {path: path for path in names}
    else:
        aside = {path: target.with_name(f".{secrets.token_hex(8)}.tmp") for path, target in names.items()}
        for path, other in aside.items():
            path.rename(other)
    for path, target in names.items():
        aside[path].rename(target)


def _data_name(model: str, index: int) -> str:
    return f"{model}_data" if index == 0 else f"{model}_data_{index}"


def _locations(window: ByteWindow, message: Field, kind: str, depth: int = 0) -> Iterator[str]:
    if depth > MAX_DEPTH:
        raise window.invalid(f"graphs are nested more than {MAX_DEPTH} deep")
    if kind == "tensor":
        window.allow_text_of(message)
    places = MESSAGES.get(kind, {})
    for part in walk(window, message.payload, message.end):
        if part.wire_type != LENGTH_DELIMITED:
            continue
        if kind == "tensor":
            if part.number == _EXTERNAL_DATA:
                key, value = entry(window, part)
                if key == "location":
                    yield value
        elif part.number in places and _may_name(window, part):
            yield from _locations(window, part, places[part.number], depth + 1)


def _may_name(window: ByteWindow, part: Field) -> bool:
    """Whether a message may contain a location. A short message is searched for the word."""
    length = part.end - part.payload
    return length > _SCANNED or b"location" in window.read(part.payload, length)
