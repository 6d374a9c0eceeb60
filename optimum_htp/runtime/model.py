"""A model that is loaded from an ONNX file: files, sessions and results."""

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
from optimum_htp.runtime.rejections import with_optimum
from optimum_htp.runtime.sessions import Part, SessionSettings
from optimum_htp.runtime.sources import Source, find_source

if TYPE_CHECKING:
    import onnxruntime
    from numpy.typing import NDArray

    from optimum_htp.metadata import ExportMetadata
    from optimum_htp.runtime.images import ImageProcessor
    from optimum_htp.runtime.tokenizer import Tokenizer

__all__ = ["GENERATING", "TASKS", "Model", "load"]

TASKS: Final[Mapping[str, str]] = {
    "feature-extraction": "embedding:features",
    "fill-mask": "fill_mask:fill_mask",
    "image-classification": "classification:classify_images",
    "question-answering": "question_answering:answer",
    "sentence-similarity": "embedding:similarities",
    "text-classification": "classification:classify",
    "text-generation": "text_generation:complete",
    "text2text-generation": "text_generation:transform",
    "token-classification": "token_classification:classify_tokens",
    "zero-shot-classification": "classification:classify_zero_shot",
}
"""The function of each task: its module in `optimum_htp.runtime.tasks`, and its name."""
GENERATING: Final = ("text-generation", "text2text-generation")
"""The tasks whose result is a generated text."""
_OTHER_NAMES: Final = {"sentiment-analysis": "text-classification", "ner": "token-classification"}


def load(
    source: str | os.PathLike[str],
    *,
    task: str | None = None,
    providers: Sequence[Any] = ("CPUExecutionProvider",),
    provider_options: Any = None,
    session_options: onnxruntime.SessionOptions | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
    file_name: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Model:
    """Load an ONNX file that has a record, without PyTorch, transformers or Optimum.

    Args:
        source: The file, its folder, a repo id, or `hf://org/name[@revision]/model.onnx`. Hub files need
            huggingface_hub.
        task: The task; None for the recorded one.
        providers: Execution providers of ONNX Runtime.
        provider_options: Their options.
        session_options: Session options of ONNX Runtime, for each session.
        revision: Revision of a repo. For a local file it overrides the recorded commit of the configs.
        subfolder: The folder of the file, inside a folder or a repo.
        file_name: The file, in a folder or a repo.
        token: Token for the Hub, as in huggingface_hub; None for the saved one.
        cache_dir: The Hub cache.
        local_files_only: Whether connections are forbidden.

    Raises:
        ArgumentError: `subfolder` or `file_name` is given in addition to a file.
        OnnxFileNotFoundError: There is no such file.
        ConfigLoadError: The file has no record, or its config cannot be loaded.
        WrongTaskError: The task is not supported.
        InvalidOnnxFileError: ONNX Runtime cannot load the file.
        HFHubIntegrationError: The download failed; the subclass gives the reason.
    """
    access = HubAccess.of(None, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
    found = find_source(source, access, revision, {"subfolder": subfolder, "file_name": file_name})
    return Model(found, _task(found, task), SessionSettings(providers, provider_options, session_options))


def _task(source: Source, given: str | None) -> str | None:
    task = given or (source.record.task or "").removesuffix("-with-past")
    task = _OTHER_NAMES.get(task, task)
    if given is not None and task not in TASKS:
        raise WrongTaskError(
            f"The task {given!r} is not supported; use one of {', '.join(TASKS)}. {with_optimum(source.name, given)}"
        )
    return task if task in TASKS else None


def _function(path: str) -> Callable[..., Any]:
    """Return a function of a task, by `module:name`. Its module is imported on first use."""
    module, _, name = path.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(f"optimum_htp.runtime.tasks.{module}"), name)
    return function


class Model:
    """A model. Calling it gives the same result as `transformers.pipeline`. Created by `load`.

    Attributes:
        task: The task; None if only `run` is supported.
        source: The location of its files.
        record: The record of its file.
        parts: The sessions of its files, by recorded name.
    """

    def __init__(self, source: Source, task: str | None, settings: SessionSettings) -> None:
        self.source: Final = source
        self.task: Final = task
        self.record: Final[ExportMetadata] = source.record
        self.parts: Final[Mapping[str, Part]] = source.opened(settings)

    @functools.cached_property
    def config(self) -> Mapping[str, Any]:
        """The content of `config.json`.

        Raises:
            ConfigLoadError: It cannot be loaded.
        """
        return self.source.config()

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer.

        Raises:
            PreprocessorLoadError: It cannot run without transformers.
        """
        from optimum_htp.runtime.tokenizer_files import load_tokenizer

        return load_tokenizer(self.source.files("AutoTokenizer"), self.config, self.source.name)

    @functools.cached_property
    def image_processor(self) -> ImageProcessor:
        """The image processor.

        Raises:
            PreprocessorLoadError: It cannot run without transformers.
        """
        from optimum_htp.runtime.images import load_image_processor

        return load_image_processor(self.source.files("AutoImageProcessor"), self.source.name)

    @property
    def part(self) -> Part:
        """The session of a model that has one file.

        Raises:
            WrongTaskError: The model has several files.
        """
        if len(self.parts) > 1:
            raise WrongTaskError(
                f"{self.source.name} has {len(self.parts)} parts ({', '.join(self.parts)}). Call the model, or use "
                f"parts[NAME].run(...). {with_optimum(self.source.name, self.task)}"
            )
        return next(iter(self.parts.values()))

    def run(self, **inputs: Any) -> dict[str, NDArray[Any]]:
        """Return the outputs of a model that has one file, by name. Inputs can be anything that numpy converts.

        Raises:
            ArgumentError: An input is missing, unknown or of another shape.
            InferenceError: ONNX Runtime fails.
        """
        return self.part.run(inputs)

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Return the result of transformers' pipeline for these arguments, as plain Python.

        Raises:
            WrongTaskError: The task is not supported, or the file's outputs do not fit it.
            ArgumentError: An argument is invalid; `OptionError` for an unknown name.
            PreprocessorLoadError: The tokenizer or image processor cannot run without transformers.
            ConfigLoadError: The config is missing, damaged, or has an unsupported setting.
            InferenceError: ONNX Runtime fails.
        """
        name = self.source.name
        if self.task is None:
            raise WrongTaskError(
                f"{name} was exported for {self.record.task}, which is not supported without transformers; supported "
                f"are {', '.join(TASKS)}. Use run(...). {with_optimum(name)}"
            )
        signature = inspect.signature(self._answer)
        try:
            signature.bind(*inputs, **options)
        except TypeError as error:
            raise OptionError(
                f"{self.task}: {error}. Its arguments are {', '.join(signature.parameters)}. "
                f"{with_optimum(name, self.task)}"
            ) from error
        return self._answer(*inputs, **options)

    @functools.cached_property
    def _answer(self) -> Callable[..., Any]:
        assert self.task is not None
        return functools.partial(_function(TASKS[self.task]), self)

    def encode(self, texts: str | Sequence[str], **options: Any) -> NDArray[Any]:
        """Return the embeddings of texts: the same as `SentenceTransformer.encode`.

        Raises:
            ConfigLoadError: It is not a sentence_transformers model, or has an unsupported module.
        """
        vectors: NDArray[Any] = _function("embedding:encode")(self, texts, **options)
        return vectors
