"""Handles the requests of a Hugging Face Inference Endpoint with the ONNX model next to this file.

A server creates one `EndpointHandler(path)` and calls it with the body of each request: `inputs` (one or a list) and
optional `parameters`. The result is JSON data. The server reports exceptions to the client.
Source: https://huggingface.co/docs/inference-endpoints/guides/custom_handler
"""

from __future__ import annotations

import base64
import binascii
import io
import wave
from pathlib import Path
from typing import Any

__all__ = ["EndpointHandler", "content_of", "fields_of", "rejection", "texts_of"]

SETTINGS: dict[str, Any] = {}


class EndpointHandler:
    """A model with its preprocessors."""

    def __init__(self, path: str = "") -> None:
        """Load the model.

        Args:
            path: The folder of the model.
        """
        self._folder = Path(path or Path(__file__).parent)
        self._task = SETTINGS["task"]
        self._run = _sentences(self._folder) if self._task == "sentence-similarity" else _pipeline(self._folder)

    def __call__(self, data: dict[str, Any]) -> Any:
        """Handle a request.

        Args:
            data: `inputs`: a text, an image or audio (bytes, base64, or decoded by the server), an object with the
                pipeline's arguments, or a list of these. `parameters`: further arguments of the pipeline.

        Returns:
            The response, as data for JSON.

        Raises:
            ValueError: The inputs are missing or invalid for the task.
        """
        inputs, parameters = fields_of(data)
        if self._task == "sentence-similarity":
            return _plain(_similar(self._run, inputs, parameters))
        inputs = [self._readable(item) for item in inputs] if isinstance(inputs, list) else self._readable(inputs)
        try:
            return _plain(self._answer(inputs, parameters))
        except (KeyError, TypeError, ValueError) as error:  # transformers raises these for invalid inputs
            raise rejection(self._task, inputs, parameters, error) from error

    def _answer(self, inputs: Any, parameters: dict[str, Any]) -> Any:
        if isinstance(inputs, dict) and "raw" not in inputs and not {*inputs} <= {"text", "text_pair"}:
            return self._run(**inputs, **parameters)
        return self._run(inputs, **parameters)

    def _readable(self, one: Any) -> Any:
        """Return an input for the pipeline. A text is never used as a path or URL."""
        if SETTINGS["input"] == "image":
            if isinstance(one, dict):  # with a question on it
                return {name: _image(part) if name == "image" else part for name, part in one.items()}
            return _image(one)
        if SETTINGS["input"] == "audio":
            return _audio(one, self._run.feature_extractor.sampling_rate)
        if not isinstance(one, (str, dict)):
            raise ValueError(f"{self._task} requires texts, not {type(one).__name__}.")
        return one


def fields_of(data: Any) -> tuple[Any, dict[str, Any]]:
    """Return the inputs and the parameters of a request's body.

    Raises:
        ValueError: The body is not an object, or has no inputs.
    """
    if not isinstance(data, dict) or data.get("inputs") is None:
        raise ValueError('The body must be a JSON object with "inputs".')
    inputs, parameters = data["inputs"], data.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise ValueError('"parameters" must be a JSON object.')
    if isinstance(inputs, list) and not inputs:
        raise ValueError('"inputs" is empty.')
    return inputs, parameters


def rejection(task: str, inputs: Any, parameters: dict[str, Any], error: Exception) -> ValueError:
    """Return the exception for inputs or parameters that a pipeline rejects."""
    given = f"{_form(inputs)}{_named(' and the parameters', parameters)}"
    return ValueError(f"The pipeline for {task} rejects {given}: {error}")


def _form(inputs: Any) -> str:
    """Return a short description of inputs, without their content."""
    if isinstance(inputs, list):
        return f"a list that begins with {_form(inputs[0])}"
    if isinstance(inputs, dict):
        return f"an object{_named(' with', inputs) or ' without fields'}"
    return "a text" if isinstance(inputs, str) else f"an input of type {type(inputs).__name__}"


def _named(what: str, values: dict[str, Any]) -> str:
    return f"{what} {', '.join(map(repr, values))}" if values else ""


def _pipeline(folder: Path) -> Any:
    import optimum.onnxruntime
    import transformers

    model_class = getattr(optimum.onnxruntime, SETTINGS["model_class"])
    named = {"file_name": SETTINGS["file_name"]} if SETTINGS["file_name"] else {}
    model = model_class.from_pretrained(folder, local_files_only=True, **named)
    if not hasattr(model, "main_input_name"):  # speech pipelines need it
        model.main_input_name = next(iter(model.input_names), None)
    parts: dict[str, Any] = {}
    for name in SETTINGS["preprocessors"]:
        loaded = getattr(transformers, name).from_pretrained(folder, local_files_only=True)
        if isinstance(loaded, transformers.ProcessorMixin):
            parts["processor"] = loaded
            for inner in loaded.attributes:
                parts.setdefault(inner, getattr(loaded, inner))
        elif isinstance(loaded, transformers.PreTrainedTokenizerBase):
            parts["tokenizer"] = loaded
        elif isinstance(loaded, transformers.ImageProcessingMixin):
            parts["image_processor"] = loaded
        else:
            parts["feature_extractor"] = loaded
    return transformers.pipeline(SETTINGS["task"], model=model, **parts)


def _sentences(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    named = {"model_kwargs": {"file_name": SETTINGS["file_name"]}} if SETTINGS["file_name"] else {}
    return SentenceTransformer(str(folder), backend="onnx", local_files_only=True, **named)


def _similar(model: Any, inputs: Any, parameters: dict[str, Any]) -> Any:
    """Return embeddings, or similarities if the inputs have `source_sentence`."""
    source, sentences = texts_of(inputs)
    if source is None:
        return {"embeddings": model.encode(sentences, **parameters)}
    first = model.encode([source], **parameters)
    return {"similarities": model.similarity(first, model.encode(sentences, **parameters))[0]}


def texts_of(inputs: Any) -> tuple[str | None, Any]:
    """Return the source sentence, or None without one, and the sentences.

    Raises:
        ValueError: They are not texts.
    """
    if isinstance(inputs, dict):
        if not isinstance(inputs.get("source_sentence"), str) or not isinstance(inputs.get("sentences"), list):
            raise ValueError('"inputs" must have "source_sentence" (a text) and "sentences" (a list of texts).')
        return inputs["source_sentence"], inputs["sentences"]
    if not all(isinstance(text, str) for text in ([inputs] if isinstance(inputs, str) else inputs)):
        raise ValueError("Embeddings require texts.")
    return None, inputs


def _image(one: Any) -> Any:
    from PIL import Image

    if isinstance(one, Image.Image):
        return one
    return Image.open(io.BytesIO(content_of(one))).convert("RGB")


def _audio(one: Any, rate: int) -> Any:
    """Return the samples of a WAV file. The pipeline decodes other files with ffmpeg."""
    import numpy as np

    if isinstance(one, dict) and "raw" in one:
        return {**one, "raw": np.asarray(one["raw"], dtype=np.float32)}
    content = content_of(one)
    try:
        with wave.open(io.BytesIO(content)) as file:
            if file.getframerate() == rate and file.getsampwidth() == 2:
                samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").astype(np.float32) / 32768
                return {"raw": samples.reshape(-1, file.getnchannels()).mean(axis=1), "sampling_rate": rate}
    except (wave.Error, EOFError):
        pass
    return content


def content_of(one: Any) -> bytes:
    """Return the content of an image or of audio from bytes, base64 or a `data:` URL.

    Raises:
        ValueError: It has another form.
    """
    if isinstance(one, (bytes, bytearray)):
        return bytes(one)
    if not isinstance(one, str):
        raise ValueError(f"Images and audio must be bytes or base64, not {type(one).__name__}.")
    content = one.partition(",")[2] if one.startswith("data:") else one
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error:
        raise ValueError("Images and audio must be bytes or base64. URLs and paths are not opened.") from None


def _plain(value: Any) -> Any:
    """Return a result as data for JSON: arrays as lists, images as base64 of a PNG."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy and PyTorch
        return value.tolist()
    if hasattr(value, "save") and hasattr(value, "getbands"):
        stream = io.BytesIO()
        value.save(stream, format="PNG")
        return base64.b64encode(stream.getvalue()).decode()
    return value
