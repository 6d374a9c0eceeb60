"""A model of an ONNX file: its files, its sessions and its answers."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.errors import OptionError, WrongTaskError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.runtime.sessions import Part, SessionSettings
from optimum_htp.runtime.sources import Source, find_source

if TYPE_CHECKING:
    import onnxruntime
    from numpy.typing import NDArray

    from optimum_htp.metadata import ExportMetadata
    from optimum_htp.runtime.images import ImageProcessor
    from optimum_htp.runtime.tokenizer import Tokenizer

__all__ = ["TASKS", "Model", "load"]

TASKS: Final[Mapping[str, str]] = {
    "feature-extraction": "embedding:features",
    "fill-mask": "fill_mask:fill_mask",
    "image-classification": "image_classification:classify_images",
    "question-answering": "question_answering:answer",
    "sentence-similarity": "embedding:similarities",
    "text-classification": "text_classification:classify",
    "text-generation": "text_generation:complete",
    "text2text-generation": "text_generation:transform",
    "token-classification": "token_classification:classify_tokens",
    "zero-shot-classification": "zero_shot:classify_zero_shot",
}
"""For each task the function that answers, in the module of `optimum_htp.runtime.tasks`."""
_OTHER_NAMES: Final = {"sentiment-analysis": "text-classification", "ner": "token-classification"}


def load(
    source: str | os.PathLike[str],
    *,
    task: str | None = None,
    providers: Sequence[Any] = ("CPUExecutionProvider",),
    provider_options: Any = None,
    session_options: onnxruntime.SessionOptions | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Model:
    """Load an ONNX file that says which model it came from, without PyTorch, transformers or Optimum.

    Args:
        source: The file, its folder, a repo, or `hf://org/name[@revision]/model.onnx`. What is on a Hub needs
            huggingface_hub.
        task: What the model is used for; None for the task that it was exported for.
        providers: ONNX Runtime's execution providers.
        provider_options: Their options.
        session_options: ONNX Runtime's options, for each session.
        revision: Of a repo; of a file's configs it overrides the commit that the file is pinned to.
        token: Of the Hub, as of huggingface_hub; without it the one that is saved.
        cache_dir: The cache of files of the Hub.
        local_files_only: Whether no connection may be opened.

    Raises:
        OnnxFileNotFoundError: There is no such file.
        ConfigLoadError: The file does not say which model it is, or its config cannot be had.
        WrongTaskError: There is no answer for the task here.
        InvalidOnnxFileError: It is not an ONNX file that ONNX Runtime loads.
        HFHubIntegrationError: It cannot be fetched; the subclass says why.
    """
    access = HubAccess.of(None, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
    found = find_source(source, access, revision)
    return Model(found, _task(found, task), SessionSettings(providers, provider_options, session_options))


def _task(source: Source, asked: str | None) -> str | None:
    task = asked or (source.record.task or "").removesuffix("-with-past")
    task = _OTHER_NAMES.get(task, task)
    if asked is not None and task not in TASKS:
        raise WrongTaskError(f"The task {asked!r} is not known: give one of {', '.join(TASKS)}.")
    return task if task in TASKS else None


class Model:
    """A model that answers as `transformers.pipeline` does for its task. `load` makes one.

    Attributes:
        task: What it answers; None for a model that only `run` uses.
        record: What its file says of itself.
    """

    def __init__(self, source: Source, task: str | None, settings: SessionSettings) -> None:
        self._source: Final = source
        self._settings: Final = settings
        self.task: Final = task
        self.record: Final[ExportMetadata] = source.record
        self.parts: Final[Mapping[str, Part]] = source.opened(settings)

    @functools.cached_property
    def config(self) -> Mapping[str, Any]:
        """The content of its `config.json`.

        Raises:
            ConfigLoadError: It cannot be had.
        """
        return self._source.config()

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer.

        Raises:
            PreprocessorLoadError: It cannot be run without transformers.
        """
        from optimum_htp.runtime.tokenizer_files import load_tokenizer

        return load_tokenizer(self._source.files("AutoTokenizer"), self.config, self._source.name)

    @functools.cached_property
    def image_processor(self) -> ImageProcessor:
        """Its image processor.

        Raises:
            PreprocessorLoadError: It cannot be run without transformers.
        """
        from optimum_htp.runtime.images import load_image_processor

        return load_image_processor(self._source.files("AutoImageProcessor"), self._source.name)

    @property
    def source(self) -> Source:
        """Where its files are."""
        return self._source

    @property
    def part(self) -> Part:
        """The session of a model of one file.

        Raises:
            WrongTaskError: It has several files.
        """
        if len(self.parts) > 1:
            raise WrongTaskError(
                f"{self._source.name} has {len(self.parts)} files ({', '.join(self.parts)}): call the model, or use "
                "parts[NAME].run(...)."
            )
        return next(iter(self.parts.values()))

    def run(self, **inputs: Any) -> dict[str, NDArray[Any]]:
        """Return the outputs of a model of one file, by name, for inputs that numpy can make arrays of.

        Raises:
            ArgumentError: An input is missing, has another name or another shape.
            InferenceError: ONNX Runtime fails.
        """
        return self.part.run(inputs)

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Return what the pipeline of transformers returns for these arguments, as plain Python.

        Raises:
            WrongTaskError: The model's task has no answer here.
            ArgumentError: The arguments are none of the task's; for unknown names its subclass `OptionError`.
            PreprocessorLoadError: Its tokenizer or image processor cannot be run without transformers.
        """
        if self.task is None:
            raise WrongTaskError(
                f"{self._source.name} was exported for {self.record.task}, which has no answer without transformers "
                f"(there are {', '.join(TASKS)}). Use run(...), or Optimum's pipeline."
            )
        try:
            inspect.signature(self._answer).bind(*inputs, **options)
        except TypeError as error:
            taken = ", ".join(list(inspect.signature(self._answer).parameters))
            raise OptionError(f"{self.task}: {error}. It takes {taken}.") from error
        return self._answer(*inputs, **options)

    @functools.cached_property
    def _answer(self) -> Callable[..., Any]:
        assert self.task is not None
        module, _, name = TASKS[self.task].partition(":")
        function = getattr(importlib.import_module(f"optimum_htp.runtime.tasks.{module}"), name)
        return functools.partial(function, self)

    def encode(self, texts: str | Sequence[str], **options: Any) -> NDArray[Any]:
        """Return the vectors of texts, as the model's modules of sentence_transformers make them.

        Raises:
            ConfigLoadError: It is not a model of sentence_transformers, or has a module that is not known here.
        """
        from optimum_htp.runtime.tasks.embedding import encode

        return encode(self, texts, **options)
