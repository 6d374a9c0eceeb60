"""Checks whether adjacent files of an ONNX file, or files in a given folder, belong to its model and are complete."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from optimum_htp.errors import ConfigLoadError
from optimum_htp.libraries.names import CONFIG, CONFIG_CLASSES, GENERATION_CONFIG, MODEL_INDEX, PREPROCESSOR_CONFIGS
from optimum_htp.libraries.preprocessors import EXTRACTORS, KINDS
from optimum_htp.libraries.repo_files import MODEL_CONFIGS, config_files, is_sentence_transformers_file, read_json
from optimum_htp.masking import get_logger
from optimum_htp.metadata import ExportMetadata
from optimum_htp.resolve.config_fit import mismatch

__all__ = ["PIPELINE", "PREPROCESSORS", "AdjacentSearch", "lies_in"]

logger = get_logger(__name__)

PIPELINE: Final = "DiffusionPipeline"
PREPROCESSORS: Final = "preprocessors"
"""All existing preprocessors of a model."""

_PROCESSOR, _EXTRACTOR, _TOKENIZER = PREPROCESSOR_CONFIGS
_NO_VOCABULARY: Final = frozenset(
    (
        *PREPROCESSOR_CONFIGS,
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
        "image_processor_config.json",
        "special_tokens_map.json",
        *(name for kind in KINDS.values() for name in kind.saved_as),
    )
)


@dataclass(frozen=True)
class AdjacentSearch:
    """A search for adjacent files.

    Attributes:
        path: The ONNX file; None for a file on a Hub.
        record: Its record.
        what: As in `find`.
        is_named: Whether the user named the file, not the folder.
        revision: Overrides the commit of the file.
    """

    path: Path | None
    record: ExportMetadata | None
    what: str
    is_named: bool
    revision: str | None


def lies_in(folder: Path, asked: AdjacentSearch, known: Collection[str] | None, *, alone: bool, needed: bool) -> bool:
    """Whether a folder contains the files of the search, and they belong to the ONNX file.

    Args:
        folder: The folder.
        asked: The search.
        known: The config and preprocessor files of the model; None if they are unknown.
        alone: Whether they are not embedded too.
        needed: Whether a config of another model is an error.

    Raises:
        ConfigLoadError: The config belongs to another model, is `needed`, and has no other source.
    """
    what, record = asked.what, asked.record
    if what == "AutoConfig":
        return _has_own_config(folder, asked, needed=needed and alone)
    if what == PIPELINE or "." in what:
        return (folder / (MODEL_INDEX if what == PIPELINE else what)).is_file()
    is_there = (folder / GENERATION_CONFIG).is_file() if what in CONFIG_CLASSES else _holds(folder, what, known)
    if not is_there or not asked.is_named:
        return is_there  # The user named the folder, so its files count.
    if (record is None or record.model_type == "local") and not (folder / CONFIG).is_file():
        return alone  # It is unknown whether it matches.
    return _has_own_config(folder, asked, needed=needed and alone)


def _has_own_config(folder: Path, asked: AdjacentSearch, *, needed: bool) -> bool:
    """Whether the `config.json` in a folder exists and belongs to the ONNX file."""
    adjacent, record, path = folder / CONFIG, asked.record, asked.path
    if not adjacent.is_file():
        return False
    if record is None or path is None:
        return True
    if asked.revision is not None and record.model_type == "hub":
        return False
    content = read_json(adjacent)
    reason = mismatch(content, record, path) if isinstance(content, dict) else "it is not a JSON object"
    if reason is not None and record.model_type == "local" and needed:
        raise ConfigLoadError(
            f"{adjacent} is not the config of {path.name}: {reason}. Copy the right config there, or pass config=."
        )
    if reason is not None:
        logger.warning("%s is not used for %s (%s): %s", adjacent, path.name, record.source, reason)
    return reason is None


def _holds(folder: Path, what: str, known: Collection[str] | None) -> bool:
    """Whether a folder has all files that a class of preprocessors reads."""
    there = _preprocessor_files([file.name for file in folder.iterdir()])
    expected = there if known is None else _preprocessor_files([name for name in known if "/" not in name])
    nested = {KINDS[name].part for name in EXTRACTORS} & {*(read_json(folder / _PROCESSOR) or ())}
    has_extractor = _EXTRACTOR in there or bool(nested)  # Since transformers 5, the config of a processor contains it.
    if what in EXTRACTORS:
        return has_extractor or not there.isdisjoint(KINDS[what].saved_as)
    words, own = expected - _NO_VOCABULARY, there - _NO_VOCABULARY
    has_tokenizer = (_TOKENIZER in there or (_TOKENIZER not in expected and bool(own))) and bool(own or not words)
    if what == "AutoTokenizer":
        return has_tokenizer
    wants_tokenizer = bool(words or _TOKENIZER in expected)
    return bool(there) and (has_extractor or _EXTRACTOR not in expected) and (has_tokenizer or not wants_tokenizer)


def _preprocessor_files(names: Collection[str]) -> set[str]:
    found = {*config_files(names)} - {*MODEL_CONFIGS}
    return {name for name in found if not is_sentence_transformers_file(name)}
