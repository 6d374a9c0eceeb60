"""Data files of models that are copied or replaced: model and data must match at any moment.

Weights that are moved to external data get a new file. So the old model and its data are unchanged until the new
model replaces the old one in one step.
"""

from __future__ import annotations

import filecmp
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from optimum_htp.errors import (
    FileTooLargeError,
    InvalidOnnxFileError,
    OnnxFileNotFoundError,
    OnnxWriteError,
    OptimumHTPError,
)
from optimum_htp.masking import get_logger
from optimum_htp.onnxfile.copying import copy_range
from optimum_htp.onnxfile.external import contained_files, external_files, is_contained
from optimum_htp.onnxfile.inside import path_below
from optimum_htp.onnxfile.replace_file import replaced_atomically
from optimum_htp.onnxfile.shared import refuse_shared
from optimum_htp.onnxfile.wire import ByteWindow, Field, walk
from optimum_htp.onnxfile.without_weights import raw_data_of, reference

__all__ = ["MovedData", "check_size", "copy_data", "moving_data", "new_data_file", "own_data", "remove_unused"]

logger = get_logger(__name__)


def new_data_file(target: Path, like: Path) -> str:
    """Create an empty data file with an unused name next to a model; return the name.

    The existing model keeps its own data file until it is replaced.
    """
    name = f"{target.name}_data"
    for candidate in (name, f"{name}_{secrets.token_hex(4)}"):
        place = target.with_name(candidate)
        try:
            place.touch(exist_ok=False)
            place.chmod(stat.S_IMODE(like.stat().st_mode))
        except FileExistsError:
            continue
        except OSError as error:
            raise OnnxWriteError(f"{place} cannot be written: {error}. Nothing was changed.") from error
        return candidate
    raise OnnxWriteError(f"{place} cannot be written, because it already exists. Try again.")


def own_data(target: Path) -> frozenset[str]:
    """Return the data files of the model that is replaced, if they are named after it."""
    own = re.compile(rf"{re.escape(target.name)}_data(_[0-9a-f]{{8}})?")
    with suppress(OptimumHTPError):
        return frozenset(name for name in external_files(target) if own.fullmatch(name))
    return frozenset()


def remove_unused(target: Path, names: frozenset[str]) -> None:
    """Remove data files that no model in the folder uses, including the model at `target`.

    If a model cannot be read, they are kept.
    """
    try:
        for other in {target, *target.parent.glob("*.onnx")} if names else ():
            with suppress(InvalidOnnxFileError, OnnxFileNotFoundError):
                names -= frozenset(external_files(other))
        for name in names:
            target.with_name(name).unlink()
    except (OptimumHTPError, OSError) as error:
        logger.debug("Old data of %s is kept: %s", target, error)


def copy_data(path: Path, output: Path) -> None:
    """Copy the external data of a file for a copy of the file; OnnxWriteError if another file has its name."""
    if path.resolve().parent == output.resolve().parent:
        return
    refuse_shared(output)
    for name in contained_files(path):
        source, target = path.parent / name, output.parent / name
        try:
            path_below(output.parent, Path(name))
        except OSError as error:
            raise OnnxWriteError(f"{error}. Pass another output folder.") from error
        if target.exists():
            if filecmp.cmp(source, target, shallow=False):
                continue
            raise OnnxWriteError(
                f"{target} already exists, and is not the data of {path}. Pass another output folder."
            )
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with replaced_atomically(target, like=source) as stream, source.open("rb") as data:
                shutil.copyfileobj(data, stream, 1 << 20)
        except OSError as error:
            raise OnnxWriteError(f"{target} cannot be written: {error}.") from error


_MOST: Final = (1 << 31) - 1  # Bytes of a protobuf message.
_LARGE: Final = 1 << 20  # Bytes of a tensor that is aligned to a page, as in ONNX Runtime and onnx.
_PAGE: Final = 4096
_ALIGNED: Final = 64  # Bytes, for smaller tensors.


class MovedData:
    """The new external data of a model: file and content."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ranges: list[tuple[int, int, int]] = []  # Offset in the new file; start and end in the old file.
        self._size = 0

    def moved(self, window: ByteWindow, tensor: Field) -> list[tuple[int, int] | bytes] | None:
        """Return a tensor whose content is in the new file; None for a tensor that is not moved."""
        fields = list(walk(window, tensor.payload, tensor.end))
        raw = raw_data_of(window, fields)
        if raw is None:
            return None
        length = raw.end - raw.payload
        offset = self._size + -self._size % (_PAGE if length >= _LARGE else _ALIGNED)
        self._ranges.append((offset, raw.payload, raw.end))
        self._size = offset + length
        return reference(fields, self.path.name.encode(), offset, length)

    def write(self, window: ByteWindow, like: Path) -> None:
        """Write the file, if any tensor was moved."""
        if not self._ranges:
            return
        with replaced_atomically(self.path, like=like) as stream:
            position = 0
            for offset, start, end in self._ranges:
                stream.write(bytes(offset - position))
                copy_range(window, stream, start, end)
                position = offset + end - start


@contextmanager
def moving_data(model: Path, like: Path) -> Iterator[MovedData]:
    """Yield the new external data of a model that the block writes; remove it if the model does not use it in the end.

    The data gets the permissions of the file `like`.
    """
    if not is_contained(model.name):
        raise OnnxWriteError(f"The name of {model} is not allowed for external data. Rename the file.")
    name = new_data_file(model, like)
    try:
        yield MovedData(model.with_name(name))
    finally:
        remove_unused(model, frozenset({name}))


def check_size(model: Path, size: int, before: int, *, moved: bool) -> None:
    """Check that protobuf readers can open the new file. A file that was too large before may become smaller."""
    if size <= max(_MOST, before):
        return
    hint = (
        "Its large tensors were moved to external data, and the rest is too large."
        if moved
        else "Pass --external-data to `optimum-cli htp inject`, `tag` or `embed` (external_data=True in Python). It "
        f"moves the weights to {model.name}_data."
    )
    raise FileTooLargeError(
        f"{model} would have {size:,} bytes, but an ONNX file can have at most {_MOST:,}. Nothing was written. {hint}"
    )
