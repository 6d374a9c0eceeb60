"""Handles the requests of an endpoint without PyTorch, as the handler with Optimum does."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from optimum_htp.extras.endpoint.handler import content_of, fields_of, rejection, texts_of
from optimum_htp.runtime import load

__all__ = ["Served"]

_SENTENCES: Final = "sentence-similarity"
_IMAGES: Final = "image-classification"


class Served:
    """An ONNX file with its task."""

    def __init__(self, path: Path, task: str) -> None:
        self._task: Final = task
        self._model: Final = load(path, task=task, local_files_only=True)
        # Load it now, so that errors appear at the start of the server.
        _ = self._model.image_processor if task == _IMAGES else self._model.tokenizer

    def __call__(self, data: dict[str, Any]) -> Any:
        """Handle a request, as `EndpointHandler`."""
        inputs, parameters = fields_of(data)
        if self._task == _SENTENCES:
            return self._similar(inputs, parameters)
        readable = self._readable if self._task == _IMAGES else self._text
        inputs = [readable(item) for item in inputs] if isinstance(inputs, list) else readable(inputs)
        try:
            if isinstance(inputs, dict) and not {*inputs} <= {"text", "text_pair"}:
                return self._model(**inputs, **parameters)
            return self._model(inputs, **parameters)
        except (TypeError, ValueError) as error:
            raise rejection(self._task, inputs, parameters, error) from error

    def _readable(self, one: Any) -> Any:
        return content_of(one) if isinstance(one, (str, bytes, bytearray)) else one

    def _text(self, one: Any) -> Any:
        if not isinstance(one, (str, dict)):
            raise ValueError(f"{self._task} requires texts, not {type(one).__name__}.")
        return one

    def _similar(self, inputs: Any, parameters: dict[str, Any]) -> dict[str, Any]:
        """Return embeddings, or similarities if the inputs have `source_sentence`."""
        source, sentences = texts_of(inputs)
        if source is not None:
            return {"similarities": self._model(source, sentences, **parameters)}
        return {"embeddings": self._model.encode(sentences, **parameters).tolist()}
