"""Moving the weights of an ONNX file into external data, so that the file fits into a protobuf message.

The data gets a name that no file has yet. So the old model and its data stay as they are until the new model takes its
place in one step, and a model and its data always belong together.
"""

from __future__ import annotations

import itertools
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from optimum_htp.errors import FileTooLargeError, HFHubIntegrationError, OnnxWriteError
from optimum_htp.onnxfile.copying import copy_range
from optimum_htp.onnxfile.external import external_files, is_contained
from optimum_htp.onnxfile.lean import raw_data_of, reference
from optimum_htp.onnxfile.replace import replaced_atomically
from optimum_htp.onnxfile.wire import ByteWindow, Field, walk

__all__ = ["MovedData", "check_size", "moving_data"]

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
    """Yield the new external data of a model; remove it where the block fails, or moves nothing.

    Args:
        model: The file that is written.
        like: The file that it is made of, whose permissions the data gets.

    Raises:
        OnnxWriteError: The data cannot be created, or the model has a name that a location may not have.
    """
    if not is_contained(model.name):
        raise OnnxWriteError(f"{model} has a name that external data cannot have. Rename the file.")
    data = MovedData(_created(model, like))
    try:
        yield data
    finally:
        # The model decides: Ctrl-C may come when the new one is in its place already.
        with suppress(OSError, HFHubIntegrationError):
            if not model.exists() or data.path.name not in external_files(model):
                data.path.unlink()


def _created(model: Path, like: Path) -> Path:
    """Create an empty file for the data of a model, with a name that no file has."""
    for count in itertools.count():
        path = model.with_name(f"{model.name}_data" + (f"_{count}" if count else ""))
        try:
            path.touch(exist_ok=False)
            path.chmod(stat.S_IMODE(like.stat().st_mode))
        except FileExistsError:
            continue
        except OSError as error:
            raise OnnxWriteError(f"{path} cannot be written: {error}. Nothing there was changed.") from error
        return path
    raise AssertionError


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
