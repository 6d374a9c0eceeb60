"""Answers the requests of a Hugging Face Inference Endpoint with the ONNX model next to this file.

It needs neither PyTorch nor transformers: `optimum_htp.zip`, beside this file, is optimum-htp, which answers with
onnxruntime and tokenizers. A server makes one `EndpointHandler(path)` and calls it with the body of each request.
Source: https://huggingface.co/docs/inference-endpoints/guides/custom_handler
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

__all__ = ["EndpointHandler"]

SETTINGS: dict[str, Any] = {}


class EndpointHandler:
    """A model, loaded once."""

    def __init__(self, path: str = "") -> None:
        """Load the model.

        Args:
            path: The folder with the model.
        """
        folder = Path(path or Path(__file__).parent)
        archive = str(folder / "optimum_htp.zip")
        if archive not in sys.path:
            sys.path.insert(0, archive)
        from optimum_htp.extras.endpoint.serving import Served

        self._served = Served(folder / SETTINGS["file_name"], SETTINGS["task"])

    def __call__(self, data: dict[str, Any]) -> Any:
        """Answer a request.

        Args:
            data: `inputs`: a text, an image (bytes, base64, or what the server has made of it), a mapping of the
                pipeline's own arguments, or a list of such. `parameters`: further arguments of the pipeline.

        Raises:
            ValueError: There is nothing to answer, or not in a form that the task takes.
        """
        return self._served(data)
