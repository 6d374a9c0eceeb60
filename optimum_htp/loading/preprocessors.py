"""Finds the tokenizers and processors of an ONNX file, and loads them at their first use."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, overload

from optimum_htp.errors import PreprocessorLoadError
from optimum_htp.forking import ForkSafeLock
from optimum_htp.hubs.base import HubAccess
from optimum_htp.libraries.repo_files import preprocessor_classes, read_json
from optimum_htp.masking import get_logger
from optimum_htp.metadata import ExportMetadata
from optimum_htp.resolve.adjacent import PREPROCESSORS
from optimum_htp.resolve.config_folder import Carrier, find, find_folder
from optimum_htp.resolve.configs import folder_of

__all__ = ["LazyPreprocessors", "first_preprocessor", "load_preprocessor"]

logger = get_logger(__name__)

_TEXT: Final = ("AutoTokenizer",)
_IMAGE: Final = ("AutoImageProcessor",)
_AUDIO: Final = ("AutoFeatureExtractor",)
_SEVERAL: Final = ("AutoProcessor",)
_TAGS: Final = {
    _TEXT: "feature-extraction fill-mask multiple-choice question-answering sentence-similarity summarization "
    "table-question-answering text-classification text-generation text-ranking text-to-image text2text-generation "
    "token-classification translation zero-shot-classification",
    _IMAGE: "depth-estimation image-classification image-feature-extraction image-segmentation image-to-image "
    "keypoint-detection object-detection unconditional-image-generation video-classification",
    _AUDIO: "audio-classification audio-to-audio voice-activity-detection",
    (*_SEVERAL, *_AUDIO): "automatic-speech-recognition",
    (*_SEVERAL, *_IMAGE): "image-to-text",
    _SEVERAL: "any-to-any audio-text-to-text document-question-answering image-text-to-text mask-generation "
    "text-to-audio text-to-speech video-text-to-text visual-document-retrieval visual-question-answering "
    "zero-shot-image-classification zero-shot-object-detection",
}
_BY_PIPELINE_TAG: Final = {tag: names for names, tags in _TAGS.items() for tag in tags.split()}
"""The Auto classes for a file that does not name its preprocessors, by the Hub's pipeline tags
(https://huggingface.co/tasks)."""


def first_preprocessor(
    carrier: Carrier, access: HubAccess, revision: str | None = None, *, trusted: bool = False, needed: bool = True
) -> Callable[[], Any] | None:
    """Return a function that loads the first preprocessor of an ONNX file's model, or None if it has none.

    If `needed`, missing preprocessors of a local model are an error. Exceptions are those of `find`.
    """
    record = carrier.record
    if record is None:
        return None
    what = record.preprocessors[0] if record.preprocessors else PREPROCESSORS
    place = find(carrier, what, access, revision, with_code=trusted, needed=needed or record.model_type == "hub")
    if place is None:
        logger.warning("%s was exported from a local model, and has no preprocessors next to it.", carrier.name)
        return None
    folder = folder_of(place)
    names = record.preprocessors or _classes_in(folder) or _BY_PIPELINE_TAG.get(record.pipeline_tag or "", ())
    return functools.partial(load_preprocessor, names[0], folder, record, trust_remote_code=trusted) if names else None


def _classes_in(folder: Path) -> tuple[str, ...]:
    """Return the Auto classes for the preprocessors in a folder."""
    files = [path.name for path in folder.iterdir()]
    contents = {name: read_json(folder / name) for name in files if name.endswith(".json")}
    return preprocessor_classes(
        files, {name: content for name, content in contents.items() if isinstance(content, dict)}
    )


def load_preprocessor(
    name: str, folder: Path, metadata: ExportMetadata, *, trust_remote_code: bool = False, slow: bool = False
) -> Any:
    """Load a new preprocessor of an Auto class; with `slow`, a tokenizer that is written in Python.

    It is new because a fast tokenizer that threads share would raise `Already borrowed`.
    """
    import transformers

    options = {"use_fast": False} if slow and name in _TEXT else {}
    try:
        return getattr(transformers, name).from_pretrained(folder, trust_remote_code=trust_remote_code, **options)
    except Exception as error:  # tokenizers raises bare exceptions for invalid files
        lacks_timm = metadata.export_library == "timm" and importlib.util.find_spec("timm") is None
        hint = " It is a timm model: run `pip install timm`." if lacks_timm else ""
        raise PreprocessorLoadError(
            f"{name} of {metadata.source} in {folder} cannot be loaded: {type(error).__name__}: {error}{hint}"
        ) from error


class LazyPreprocessors(Sequence[Any]):
    """`model.preprocessors` of a loaded model: downloaded and loaded at their first use."""

    def __init__(
        self, carrier: Carrier, metadata: ExportMetadata, access: HubAccess, revision: str | None, trusted: bool
    ) -> None:
        self._carrier = carrier
        self._metadata = metadata
        self._access = access
        self._revision = revision
        self._trusted = trusted
        self._lock = ForkSafeLock()
        self._loaded: list[Any] | None = None

    def __len__(self) -> int:
        return len(self._items())

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self._items()[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items())

    def __repr__(self) -> str:
        return f"<preprocessors of {self._metadata.source}: {', '.join(self._metadata.preprocessors)}>"

    @property
    def task(self) -> str | None:
        """The Optimum task of the export."""
        return self._metadata.task

    @property
    def names(self) -> tuple[str, ...]:
        """The Auto classes in the record. Does not load them."""
        return self._metadata.preprocessors

    def slow(self) -> list[Any]:
        """Load new preprocessors, with slow tokenizers (`use_fast=False`)."""
        return self._load(slow=True)

    def _items(self) -> list[Any]:
        with self._lock.held():
            if self._loaded is None:
                self._loaded = self._load(slow=False)
            return self._loaded

    def _load(self, *, slow: bool) -> list[Any]:
        def load(name: str) -> Any:
            options = {"with_code": self._trusted, "slow": slow and name in _TEXT}
            folder = find_folder(self._carrier, name, self._access, self._revision, **options)
            return load_preprocessor(name, folder, self._metadata, trust_remote_code=self._trusted, slow=slow)

        return [load(name) for name in self._metadata.preprocessors]
