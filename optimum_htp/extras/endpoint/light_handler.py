"""Handles the requests of a Hugging Face Inference Endpoint with the ONNX model next to this file.

It needs neither PyTorch nor transformers: `optimum_htp.zip` next to this file contains optimum-htp, which runs the
model with onnxruntime and tokenizers. A server creates one `EndpointHandler(path)` and calls it with the body of each
request.
Source: https://huggingface.co/docs/inference-endpoints/guides/custom_handler
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

__all__ = ["EndpointHandler"]

SETTINGS: dict[str, Any] = {}


class EndpointHandler:
    """A model."""

    def __init__(self, path: str = "") -> None:
        """Load the model.

        Args:
            path: The folder of the model.
        """
        folder = Path(path or Path(__file__).parent)
        archive = str(folder / "optimum_htp.zip")
        if archive not in sys.path:
            sys.path.insert(0, archive)
        from optimum_htp.extras.endpoint.serving import Served

        self._served = Served(folder / SETTINGS["file_name"], SETTINGS["task"])

    def __call__(self, data: dict[str, Any]) -> Any:
        """Handle a request.

        Args:
            data: `inputs`: a text, an image (bytes, base64, or decoded by the server), an object with the pipeline's
                arguments, or a list of these. `parameters`: further arguments of the pipeline.

        Returns:
            The response, as data for JSON.

        Raises:
            ValueError: The inputs are missing or invalid for the task.
        """
        return self._served(data)
