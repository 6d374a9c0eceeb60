"""What the installed ONNX Runtime can do with weights that it is not given with a model."""

from __future__ import annotations

import functools
from typing import Final

__all__ = ["DATA_FOLDER", "can_map_weights"]

DATA_FOLDER: Final = "session.model_external_initializers_file_folder_path"
"""The config entry of a session that names the folder of a model's external data."""
_FIRST_VERSION: Final = (1, 21)  # of ONNX Runtime; 1.20 looks for the data in the working folder


@functools.cache
def can_map_weights() -> bool:
    """Tell whether this ONNX Runtime can map the weights of a model that it is given in memory."""
    import onnxruntime
    from packaging.version import Version

    return Version(onnxruntime.__version__).release[:2] >= _FIRST_VERSION
