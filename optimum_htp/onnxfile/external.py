"""External data: the files beside an ONNX file that hold its large tensors.

A tensor that lives outside says where in `external_data`, as `location` relative to the ONNX file.
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

_EXTERNAL_DATA: Final = 13  # in TensorProto
_CONTROLS: Final = ("Cc", "Cs", "Zl", "Zp")  # of Unicode: characters that no file name needs
_SCANNED: Final = 1 << 10  # bytes of a message that are looked through at once
_SHOWN: Final = 20  # characters of a number in a message


def external_files(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return the external data files that an ONNX file refers to, in order of appearance.

    Steps over every tensor's content; reads no weights.
    """
    with opened(path, chunk=1 << 16) as window:
        return external_files_of(window)


def external_files_of(window: ByteWindow) -> tuple[str, ...]:
    """Return the external data files that an open ONNX file refers to."""
    window.begin_pass()
    whole = Field(0, LENGTH_DELIMITED, 0, 0, window.size)
    return tuple(dict.fromkeys(_locations(window, whole, "model")))


def is_contained(location: str) -> bool:
    """Whether a location is one that ONNX allows: a relative path that does not lead out of the model's folder.

    This and `contained_files` are the one rule for everything that follows a location.
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
    """Return a location without the `.` and the further `/` that ONNX allows in it."""
    return posixpath.normpath(location)


def contained_files(path: str | os.PathLike[str], window: ByteWindow | None = None) -> tuple[str, ...]:
    """Return the external data files of an ONNX file, where all of them lie in its folder.

    A link may lead to another folder only if the ONNX file itself is a link to the same one, as in the Hub's cache.

    Their names are those of `plain_location`, without repetition.

    Args:
        path: The ONNX file.
        window: The same, where it is open already.

    Raises:
        InvalidOnnxFileError: One lies elsewhere.
    """
    path = Path(path)
    names = external_files(path) if window is None else external_files_of(window)
    homes = {path.parent.resolve(), path.resolve().parent}
    for name in names:
        if not is_contained(name) or homes.isdisjoint((path.parent / name).resolve().parents):
            raise InvalidOnnxFileError(
                f"{path} keeps data at {name!r}, outside its folder, which ONNX does not allow. It is not followed."
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
    raise InvalidOnnxFileError(f"{path} keeps data in {location!r}, which does not exist. Fetch or export it again.")


def data_range(path: Path, entries: Mapping[str, str], file: Path, size: int) -> tuple[int, int]:
    """Return where the content of a tensor begins and ends in an external data file.

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
            f"{file} has {size} bytes, and {path} looks for a tensor there at byte {texts[0][:_SHOWN]!r}: the two "
            "files do not belong together, or one is cut off. Fetch or export them again."
        )
    return start, end


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < _SHOWN


def rename_model(path: Path, target: Path) -> None:
    """Rename an ONNX file inside its folder, and its external data file to `<target>_data`.

    The data file is renamed too because two models in a folder cannot both own `model.onnx_data`; that suffix
    is the one that Optimum fetches from a Hub. Data that is named after the model in another way stays so. Nobody else
    may use the folder: several files change one after the other.
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
    """Rename files, of which some may have names that others get."""
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
    """Whether a message may hold a location. A short message is searched for the word."""
    length = part.end - part.payload
    return length > _SCANNED or b"location" in window.read(part.payload, length)
