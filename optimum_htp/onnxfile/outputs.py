"""The rule for existing files that a command may replace, for every output that a user names.

An output is never a file that the command reads, and an ONNX file only if the command writes ONNX. An existing file
must be of the same kind, from an earlier run, or `force` is needed. The content of the file decides, because links,
other spellings and case-insensitive filesystems can give one file several names.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Final

from optimum_htp.errors import OnnxReadError, OptimumHTPError, ProtectedFileError
from optimum_htp.onnxfile.external import external_files
from optimum_htp.onnxfile.reader import read_header
from optimum_htp.onnxfile.replace_file import replaced_atomically

__all__ = ["ONNX", "OutputKind", "check_output", "refuse_same_outputs", "starts_with", "write_document"]

_SUFFIX: Final = ".onnx"


@dataclass(frozen=True)
class OutputKind:
    """A kind of file that commands write: its name with an article, and whether a non-empty file is of this kind."""

    name: str
    is_kind: Callable[[Path], bool]


def _is_onnx(path: Path) -> bool:
    """Whether a file is an ONNX model. A file with a damaged header is not; a file with a damaged graph is."""
    with suppress(OptimumHTPError, OSError):
        read_header(path)
        return True
    return False


ONNX: Final = OutputKind("an ONNX file", _is_onnx)


def check_output(
    path: str | os.PathLike[str],
    kind: OutputKind,
    *,
    inputs: Iterable[str | os.PathLike[str]] = (),
    force: bool = False,
) -> Path:
    """Return the path of an output, after a check that writing it destroys no other file.

    Args:
        inputs: Files that the command reads; their external data belongs to them. All files in a folder that is listed
            here are inputs, except those of the kind.
        force: Whether to replace a file of another kind. Inputs and ONNX files are never replaced.

    Raises:
        ProtectedFileError: The path is a folder, a device, an input, an ONNX file, or a file of another kind.
    """
    path = Path(path)
    files = [Path(given) for given in inputs if "://" not in os.fspath(given)]
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        status = None
    except (OSError, ValueError) as error:
        raise OnnxReadError(f"{path} cannot be used as an output: {error}. Pass another file.") from error
    if any(_is_same(path, file) for file in files):
        raise ProtectedFileError(f"{path} is a file that this command reads. Pass another output.")
    if kind is not ONNX and path.suffix.lower() == _SUFFIX:
        raise ProtectedFileError(
            f"{path} is the name of an ONNX file, but the output is {kind.name}. Pass another output."
        )
    if status is None:
        return path
    if stat.S_ISDIR(status.st_mode):
        raise ProtectedFileError(f"{path} is a folder. Pass a file for {kind.name}.")
    if not stat.S_ISREG(status.st_mode):
        raise ProtectedFileError(f"{path} is not a regular file. Pass another output.")
    if status.st_size == 0:  # An empty file.
        return path
    if not os.access(path, os.R_OK):
        raise OnnxReadError(f"{path} exists but cannot be read, so it is not replaced. Pass another output.")
    if kind is not ONNX and _is_onnx(path):
        raise ProtectedFileError(f"{path} is an ONNX file, but the output is {kind.name}. Pass another output.")
    is_kind = kind.is_kind(path)
    for file in files:
        if not (is_kind and file.is_dir()) and any(_is_same(path, data) for data in _belonging(file)):
            raise ProtectedFileError(f"{path} is a file that this command reads. Pass another output.")
    if is_kind:
        return path
    if not force:
        way_out = "name another output" + ("" if kind is ONNX else ", or pass --force")
        raise ProtectedFileError(f"{path} exists and is not {kind.name}: {way_out}.")
    return path


def refuse_same_outputs(*paths: Path | None) -> None:
    """Raise ProtectedFileError if two of the outputs are the same file."""
    for other, path in combinations((path for path in paths if path is not None), 2):
        if _is_same(path, other) or _real(path).casefold() == _real(other).casefold():
            raise ProtectedFileError(f"{path} is named for two outputs. Pass a different file for each.")


def write_document(
    content: bytes, path: Path, kind: OutputKind, *, inputs: Iterable[str | os.PathLike[str]] = (), force: bool = False
) -> None:
    """Write a file completely or not at all, after `check_output`."""
    inputs = list(inputs)

    @contextmanager
    def checked() -> Iterator[None]:
        check_output(path, kind, inputs=inputs, force=force)
        yield

    with checked(), replaced_atomically(path, replacing=checked()) as stream:
        stream.write(content)


def _is_same(one: Path, other: Path) -> bool:
    with suppress(OSError, ValueError):
        return one.samefile(other)
    return _real(one) == _real(other)  # It does not exist yet.


def _real(path: Path) -> str:
    with suppress(OSError, ValueError):
        return os.path.realpath(path)
    return str(path)


def _belonging(path: Path) -> Iterator[Path]:
    """Yield the files that belong to an input: the external data of an ONNX file, the files in a folder."""
    with suppress(OSError, OptimumHTPError):
        if path.is_dir():
            yield from (Path(here, name) for here, _, names in os.walk(path) for name in names)
        else:
            yield from (path.parent / name for name in external_files(path))


def starts_with(*heads: bytes) -> Callable[[Path], bool]:
    """Return a check of the first characters of a file, without white space."""
    wanted = [b"".join(head.split()) for head in heads]

    def is_kind(path: Path) -> bool:
        with path.open("rb") as stream:
            begin = b"".join(stream.read(4096).split())
        return any(begin.startswith(head) for head in wanted)

    return is_kind
