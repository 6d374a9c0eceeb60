"""Data files of models that are copied or replaced: model and data have to belong together at any moment.

Weights that are moved into external data get a file of a name that no file has yet. So the old model and its data stay
as they are until the new model takes its place in one step.
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
    """Create an empty data file beside a model, with a name that no file has; return the name.

    The model that is there now keeps its own data file until it is replaced. So model and data belong together at any
    moment.
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
            raise OnnxWriteError(f"{place} cannot be written: {error}. Nothing there was changed.") from error
        return candidate
    raise OnnxWriteError(f"{place} cannot be written: it is there already. Try again.")


def own_data(target: Path) -> frozenset[str]:
    """Return the data files of the model that is replaced, where they are named after it."""
    own = re.compile(rf"{re.escape(target.name)}_data(_[0-9a-f]{{8}})?")
    with suppress(OptimumHTPError):
        return frozenset(name for name in external_files(target) if own.fullmatch(name))
    return frozenset()


def remove_unused(target: Path, names: frozenset[str]) -> None:
    """Remove data files that no model in the folder uses, the one at `target` included.

    Where a model cannot be read, they stay.
    """
    try:
        for other in {target, *target.parent.glob("*.onnx")} if names else ():
            with suppress(InvalidOnnxFileError, OnnxFileNotFoundError):
                names -= frozenset(external_files(other))
        for name in names:
            target.with_name(name).unlink()
    except (OptimumHTPError, OSError) as error:
        logger.debug("Old data of %s stays: %s", target, error)


def copy_data(path: Path, output: Path) -> None:
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


_MOST: Final = (1 << 31) - 1  # bytes of a protobuf message
_LARGE: Final = 1 << 20  # bytes of a tensor that begins a page, as ONNX Runtime and onnx write them
_PAGE: Final = 4096
_ALIGNED: Final = 64  # bytes, for smaller tensors


class MovedData:
    """The new external data of a model, file and content.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ranges: list[tuple[int, int, int]] = []  # where each begins in the new file; start and end in the old
        self._size = 0

    def moved(self, window: ByteWindow, tensor: Field) -> list[tuple[int, int] | bytes] | None:
        """Return a tensor whose content is in the new file; None for one that stays as it is."""
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
        """Write the file, if anything was moved.

        Raises:
            OSError: It cannot be written.
        """
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
    """Yield the new external data of a model; remove it where the model does not use it in the end.

    Args:
        model: The model that the block writes.
        like: A file whose permissions the data gets.

    Raises:
        OnnxWriteError: The data cannot be written, or the model has a name that a location may not have.
    """
    if not is_contained(model.name):
        raise OnnxWriteError(f"{model} has a name that external data cannot have. Rename the file.")
    name = new_data_file(model, like)
    try:
        yield MovedData(model.with_name(name))
    finally:
        remove_unused(model, frozenset({name}))


def check_size(model: Path, size: int, before: int, *, moved: bool) -> None:
    """Refuse to write a file that no protobuf reader would open. One that was too large before may become smaller.

    Raises:
        FileTooLargeError: It would have more than 2 GiB.
    """
    if size <= max(_MOST, before):
        return
    hint = (
        "Its large tensors were moved to external data, and the rest is too large."
        if moved
        else "Add --external-data to `optimum-cli htp inject`, `tag` or `embed` (external_data=True in Python): it "
        f"moves the weights to {model.name}_data."
    )
    raise FileTooLargeError(
        f"{model} would have {size:,} bytes, and an ONNX file has at most {_MOST:,}. Nothing was written. {hint}"
    )
