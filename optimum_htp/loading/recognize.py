"""What the hooks look at in every call of `from_pretrained`, kept light: who loads something else pays only for this.

Which names are worth a second look, and which files Optimum's search is answered with while one of our loads runs.
"""

from __future__ import annotations

import os
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.origin.names import CONFIG

if TYPE_CHECKING:
    from optimum_htp.origin.model_files import ModelFiles

__all__ = ["files_being_loaded", "may_be_ours", "names_a_file", "names_a_remote_file"]


files_being_loaded: Final[ContextVar[ModelFiles | None]] = ContextVar("optimum_htp_files", default=None)
"""What Optimum's search for files is answered with; None outside a load of ours."""


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
    """Whether what was given to `from_pretrained` is an ONNX file, or a folder without the config that it needs.

    Args:
        model_id: A path, a repo, or anything else.
        subfolder: Where in a folder to look. Optimum takes the folder's own config too.
    """
    if not isinstance(model_id, (str, os.PathLike)) or not isinstance(subfolder or "", (str, os.PathLike)):
        return False
    if names_a_file(model_id):
        return True
    # Every load goes through here, and os.path takes a third of pathlib's time.
    folder = os.path.join(model_id, subfolder or "")  # noqa: PTH118
    return os.path.isdir(folder) and not any(  # noqa: PTH112
        os.path.isfile(os.path.join(place, CONFIG))  # noqa: PTH113, PTH118
        for place in (folder, model_id)
    )
