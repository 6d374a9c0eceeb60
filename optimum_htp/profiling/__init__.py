"""Generates inputs for a file, and runs it.

This module has the features of the installed ONNX Runtime for weights outside the model.
"""

from __future__ import annotations

import functools
from typing import Final

__all__ = ["DATA_FOLDER", "can_map_weights"]

DATA_FOLDER: Final = "session.model_external_initializers_file_folder_path"
"""The session config entry for the folder of a model's external data."""
_FIRST_VERSION: Final = (1, 21)  # Of ONNX Runtime; 1.20 searches for the data in the working folder.


@functools.cache
def can_map_weights() -> bool:
    """Return whether this ONNX Runtime can map the weights of a model that is passed in memory."""
    import onnxruntime
    from packaging.version import Version

    return Version(onnxruntime.__version__).release[:2] >= _FIRST_VERSION
