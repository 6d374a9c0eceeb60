"""Cheap checks of every call of `from_pretrained`, and the state of the current load.

The hooks run these checks for calls of all models, so this module imports little.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from optimum_htp.libraries.names import ONNX_FOLDERS

if TYPE_CHECKING:
    from optimum_htp.resolve.model_files import ModelFiles

__all__ = [
    "chosen_file",
    "chosen_options",
    "files_being_loaded",
    "files_of_names",
    "local_path",
    "find_onnx",
    "has_onnx",
    "is_onnx_name",
    "names_a_file",
    "names_a_remote_file",
    "path_of_file",
    "pinned_file",
    "pinned_path",
    "setting",
]

Value = TypeVar("Value")

files_being_loaded: Final[ContextVar[ModelFiles | None]] = ContextVar("optimum_htp_files", default=None)
"""The result of Optimum's search for files during a load of this package; None otherwise."""

chosen_file: Final[ContextVar[tuple[str, Mapping[str, str]] | None]] = ContextVar("optimum_htp_chosen", default=None)
"""A folder or repo, and the options that select a file in it, for a load whose inner calls omit these options."""

files_of_names: Final[ContextVar[list[tuple[Any, Path]] | None]] = ContextVar("optimum_htp_of_names", default=None)
"""Collects argument and loaded file of each `ORTModel.from_pretrained` for a file with a record; None if inactive."""

pinned_file: Final[ContextVar[tuple[Any, Path] | None]] = ContextVar("optimum_htp_pinned", default=None)
"""A repo and its cached ONNX file. The current load reads files at the commit of this file."""

_OTHER_FORMATS: Final = frozenset(
    (".bin", ".ckpt", ".gguf", ".h5", ".json", ".model", ".msgpack", ".pt", ".pth", ".safetensors", ".txt", ".yaml")
)


@contextmanager
def setting(variable: ContextVar[Value], value: Value) -> Iterator[None]:
    """Set a context variable for a block."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def pinned_path(model_id: Any) -> Path | None:
    """Return the file of `pinned_file` if the current load is of its repo."""
    pinned = pinned_file.get()
    return pinned[1] if pinned is not None and pinned[0] == model_id else None


def local_path(model_id: str | os.PathLike[str]) -> str:
    """Return a file system path, converted from a `file://` URL if needed."""
    text = os.fspath(model_id)
    if not text.startswith("file://"):
        return text
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    return url2pathname(urlsplit(text).path)


def path_of_file(model_id: str | os.PathLike[str]) -> Path:
    """Return the path of an argument for which `names_a_file` is true."""
    return Path(local_path(model_id)).expanduser()


def names_a_file(model_id: Any) -> bool:
    """Whether the argument of `from_pretrained` is a local ONNX file, not a folder or a repo.

    A name without the suffix (as in caches and registries) is one if the file has a record.
    """
    if not isinstance(model_id, (str, os.PathLike)):
        return False  # Optimum raises its own error
    text = local_path(model_id)
    if is_onnx_name(text):
        return not Path(text).is_dir() and not names_a_remote_file(model_id)
    return os.path.isfile(text) and _is_stamped(text)  # noqa: PTH113


def names_a_remote_file(model_id: Any) -> bool:
    """Whether the argument of `from_pretrained` is an ONNX file of a Hub: `hf://org/name@revision/model.onnx`.

    Any http(s) address of an ONNX file counts, because the libraries cannot load it.
    """
    if not isinstance(model_id, str) or "://" not in model_id or not is_onnx_name(model_id):
        return False
    if model_id.startswith(("http://", "https://")):
        return True
    from optimum_htp.origin.references import names_a_hub

    return names_a_hub(model_id)


def has_onnx(model_id: Any, subfolder: Any = None) -> bool:
    """Whether the argument of `from_pretrained` is an ONNX file or a folder with one."""
    return find_onnx(model_id, subfolder) is True


def find_onnx(model_id: Any, subfolder: Any = None, enough: Collection[str] = ()) -> bool | None:
    """Return `has_onnx`, or None if nothing exists at the path, so that it can be a repo.

    Every load calls this. For other models, it costs one listing of the folder. A folder that contains all files of
    `enough` is left to the library.
    """
    if not isinstance(model_id, (str, os.PathLike)) or not isinstance(subfolder or "", (str, os.PathLike)):
        return False
    path = local_path(model_id)
    if is_onnx_name(path) and not os.path.isdir(path):  # noqa: PTH112
        return names_a_file(model_id) or names_a_remote_file(model_id)
    if not path:
        return False
    place = os.path.join(path, subfolder) if subfolder else path  # noqa: PTH118
    try:
        names = os.listdir(place)  # noqa: PTH208
    except NotADirectoryError:
        return not subfolder and _is_stamped(path)
    except (OSError, ValueError):  # missing folder or invalid name
        return None
    is_url = path != os.fspath(model_id)  # the libraries support no file:// URLs
    if enough and not is_url and all(name in names for name in enough):
        return False
    if any(map(is_onnx_name, names)):
        return True
    chosen = "" if subfolder else chosen_options(path).get("subfolder", "")
    nested = (name for name in (ONNX_FOLDERS[1], chosen) if name.partition("/")[0] in names)
    return any(has_onnx(place, name) for name in nested) or (None if is_url else False)


def chosen_options(model_id: str | os.PathLike[str]) -> Mapping[str, str]:
    """Return the options of the current load that select a file in a folder or repo."""
    chosen = chosen_file.get()
    return chosen[1] if chosen is not None and chosen[0] == os.fspath(model_id) else {}


def is_onnx_name(text: str) -> bool:
    """Whether a name or path has the suffix of ONNX files."""
    return text[-5:].lower() == ".onnx"


def _is_stamped(path: str) -> bool:
    """Whether a file is an ONNX file with a record. Files with the suffix of another format are not opened."""
    if os.path.splitext(path)[1].lower() in _OTHER_FORMATS:  # noqa: PTH122
        return False
    from optimum_htp.metadata import record_if_any

    return record_if_any(Path(path)) is not None
