"""What the hooks look at in every call of `from_pretrained`, kept light: who loads something else pays only for this.

Which names are worth a second look, and which files Optimum's search is answered with while one of our loads runs.
"""

from __future__ import annotations

import os
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from optimum_htp.origin.model_files import ModelFiles

__all__ = ["ONNX_FOLDERS", "chosen_file", "files_being_loaded", "may_be_ours", "names_a_file", "names_a_remote_file"]

ONNX_FOLDERS: Final = ("", "onnx")
"""Where Optimum looks for ONNX files, in a folder and in a repo."""

files_being_loaded: Final[ContextVar[ModelFiles | None]] = ContextVar("optimum_htp_files", default=None)
"""What Optimum's search for files is answered with; None outside a load of ours."""

chosen_file: Final[ContextVar[tuple[Any, str] | None]] = ContextVar("optimum_htp_chosen", default=None)
"""A folder, and the file in it that a load is about whose parts name the folder alone."""


def names_a_file(model_id: Any) -> bool:
    """Whether what was given to `from_pretrained` is an ONNX file here, rather than a folder or a repo."""
    if not isinstance(model_id, (str, os.PathLike)):
        return False  # Optimum's own error says it
    text = os.fspath(model_id)
    return text.endswith(".onnx") and not Path(text).is_dir() and not names_a_remote_file(model_id)


def names_a_remote_file(model_id: Any) -> bool:
    """Whether what was given to `from_pretrained` is an ONNX file of a Hub: `hf://org/name@revision/model.onnx`."""
    if not isinstance(model_id, str) or "://" not in model_id or not model_id.endswith(".onnx"):
        return False
    from optimum_htp.origin.references import names_a_hub

    return names_a_hub(model_id)


def may_be_ours(model_id: Any, subfolder: Any = None) -> bool:
    """Whether what was given to `from_pretrained` is an ONNX file, or a folder in which there is one.

    Args:
        model_id: A path, a repo, or anything else.
        subfolder: Where in a folder to look.
    """
    if not isinstance(model_id, (str, os.PathLike)) or not isinstance(subfolder or "", (str, os.PathLike)):
        return False
    if names_a_file(model_id) or names_a_remote_file(model_id):
        return True
    # Every load goes through here, and os.path takes a third of pathlib's time.
    folder = os.path.join(model_id, subfolder) if subfolder else model_id  # noqa: PTH118
    return bool(model_id) and any(_has_onnx_files(folder, inside) for inside in ONNX_FOLDERS)


def _has_onnx_files(folder: Any, inside: str) -> bool:
    try:
        names = os.listdir(os.path.join(folder, inside) if inside else folder)  # noqa: PTH118, PTH208
    except (OSError, ValueError):  # there is none, or can be none of that name
        return False
    return any(name.endswith(".onnx") for name in names)
