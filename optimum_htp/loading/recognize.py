"""What the hooks look at in every call of `from_pretrained`, kept light: who loads something else pays only for this.

Which names are worth a second look, and which files Optimum's search is answered with while one of our loads runs.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.libraries.names import ONNX_FOLDERS

if TYPE_CHECKING:
    from optimum_htp.resolve.model_files import ModelFiles

__all__ = [
    "chosen_file",
    "chosen_options",
    "files_being_loaded",
    "files_of_names",
    "local_path",
    "looked_at",
    "may_be_ours",
    "names_a_file",
    "names_a_remote_file",
    "pinned_file",
]

files_being_loaded: Final[ContextVar[ModelFiles | None]] = ContextVar("optimum_htp_files", default=None)
"""What Optimum's search for files is answered with; None outside a load of ours."""

chosen_file: Final[ContextVar[tuple[str, Mapping[str, str]] | None]] = ContextVar("optimum_htp_chosen", default=None)
"""A folder or repo, and the options that name a file in it: of a load whose parts name the folder or repo alone."""


files_of_names: Final[ContextVar[list[tuple[Any, Path]] | None]] = ContextVar("optimum_htp_of_names", default=None)
"""Collects what was given to `ORTModel.from_pretrained`, and the stamped file that was loaded for it; None outside of
a load that wants to know."""

pinned_file: Final[ContextVar[tuple[Any, Path] | None]] = ContextVar("optimum_htp_pinned", default=None)
"""A repo, and the ONNX file of it in the cache that a load is about: what the load reads is of that file's commit."""

_OTHER_FORMATS: Final = frozenset(
    (".bin", ".ckpt", ".gguf", ".h5", ".json", ".model", ".msgpack", ".pt", ".pth", ".safetensors", ".txt", ".yaml")
)


def local_path(model_id: str | os.PathLike[str]) -> str:
    """Return a path as the system knows it, of a `file://` URL too."""
    text = os.fspath(model_id)
    if not text.startswith("file://"):
        return text
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    return url2pathname(urlsplit(text).path)


def names_a_file(model_id: Any) -> bool:
    """Whether what was given to `from_pretrained` is an ONNX file here, rather than a folder or a repo.

    A name without the suffix, as caches and registries have them, is one where a stamped file has it.
    """
    if not isinstance(model_id, (str, os.PathLike)):
        return False  # Optimum's own error says it
    text = local_path(model_id)
    if _has_suffix(text):
        return not Path(text).is_dir() and not names_a_remote_file(model_id)
    return os.path.isfile(text) and _is_stamped(text)  # noqa: PTH113


def names_a_remote_file(model_id: Any) -> bool:
    """Whether what was given to `from_pretrained` is an ONNX file of a Hub: `hf://org/name@revision/model.onnx`.

    Any http(s) address of an ONNX file is taken for one: nothing else can load it.
    """
    if not isinstance(model_id, str) or "://" not in model_id or not _has_suffix(model_id):
        return False
    if model_id.startswith(("http://", "https://")):
        return True
    from optimum_htp.origin.references import names_a_hub

    return names_a_hub(model_id)


def may_be_ours(model_id: Any, subfolder: Any = None) -> bool:
    """Whether what was given to `from_pretrained` is an ONNX file, or a folder in which there is one.

    Args:
        model_id: A path, a repo, or anything else.
        subfolder: Where in a folder to look.
    """
    return looked_at(model_id, subfolder) is True


def looked_at(model_id: Any, subfolder: Any = None, enough: Collection[str] = ()) -> bool | None:
    """Return the same; None where nothing is there, so that a repo may be meant.

    Every load goes through here: a load of anything else costs one listing of the folder.

    Args:
        model_id, subfolder: As of `may_be_ours`.
        enough: Files that are all that is wanted: a folder that has them is answered for by the library.
    """
    if not isinstance(model_id, (str, os.PathLike)) or not isinstance(subfolder or "", (str, os.PathLike)):
        return False
    path = local_path(model_id)
    if _has_suffix(path) and not os.path.isdir(path):  # noqa: PTH112
        return names_a_file(model_id) or names_a_remote_file(model_id)
    if not path:
        return False
    place = os.path.join(path, subfolder) if subfolder else path  # noqa: PTH118
    try:
        names = os.listdir(place)  # noqa: PTH208
    except NotADirectoryError:
        return not subfolder and _is_stamped(path)
    except (OSError, ValueError):  # no such folder, or no legal name
        return None
    is_url = path != os.fspath(model_id)  # the libraries know none
    if enough and not is_url and all(name in names for name in enough):
        return False
    if any(map(_has_suffix, names)):
        return True
    chosen = "" if subfolder else chosen_options(path).get("subfolder", "")
    nested = (name for name in (ONNX_FOLDERS[1], chosen) if name.partition("/")[0] in names)
    return any(may_be_ours(place, name) for name in nested) or (None if is_url else False)


def chosen_options(model_id: str | os.PathLike[str]) -> Mapping[str, str]:
    """Return the options that name a file in a folder or repo, of the load that runs."""
    chosen = chosen_file.get()
    return chosen[1] if chosen is not None and chosen[0] == os.fspath(model_id) else {}


def _has_suffix(text: str) -> bool:
    return text[-5:].lower() == ".onnx"


def _is_stamped(path: str) -> bool:
    """Whether a file is an ONNX file with a record; those whose suffix is of another format are not opened."""
    if os.path.splitext(path)[1].lower() in _OTHER_FORMATS:  # noqa: PTH122
        return False
    from optimum_htp.metadata import record_if_any

    return record_if_any(Path(path)) is not None
