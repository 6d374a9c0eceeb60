"""Selects the files of a model to embed: its config, and the files that its preprocessors are loaded from.

Code, weights, and configs that would make a library import code are never embedded. The files of a slow tokenizer are
left out if `tokenizer.json` replaces them. This is decided from the files, without loading them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, Final

from optimum_htp.errors import ArgumentError, EmbeddedFilesError
from optimum_htp.libraries import tables
from optimum_htp.libraries.code_references import references_in
from optimum_htp.libraries.names import (
    CONFIG,
    GENERATION_CONFIG,
    MODEL_INDEX,
    PREPROCESSOR_CONFIGS,
    SCHEDULER_CONFIG,
    SENTENCEPIECE,
    TOKENIZER,
)
from optimum_htp.libraries.repo_files import config_files, read_json
from optimum_htp.masking import get_logger
from optimum_htp.metadata import EmbeddedFile
from optimum_htp.resolve.archive import MOST_FILES, described, pack
from optimum_htp.resolve.embedded import EMBEDDED_LIMIT, is_embeddable, largest_total

__all__ = ["ALL", "CHOICES", "CONFIG_ONLY", "NONE", "Embedding", "check_choice", "embeddable", "embedding_of"]

logger = get_logger(__name__)

ALL: Final = "all"
CONFIG_ONLY: Final = "config"
NONE: Final = "none"
CHOICES: Final = (ALL, CONFIG_ONLY, NONE)

_CONFIGS: Final = (CONFIG, GENERATION_CONFIG, MODEL_INDEX, SCHEDULER_CONFIG)
_TOKENIZER_CONFIG: Final = "tokenizer_config.json"
# The files that slow tokenizers are loaded from (`vocab_files_names` of transformers' tokenizers).
_SLOW: Final = ("vocab.json", "vocab.txt", "vocab.bpe", "merges.txt", "bpe.codes", "*.model", "*.spm")


@dataclass(frozen=True)
class Embedding:
    """Files to embed in an ONNX file, and their content as text."""

    files: tuple[EmbeddedFile, ...]
    archive: str


def check_choice(what: str) -> None:
    """Reject an unknown choice before any work."""
    if what not in CHOICES:
        raise ArgumentError(f"embed={what!r} is not known: use one of {', '.join(CHOICES)}.")


def embeddable(folder: Path, names: Iterable[str], library: str | None, what: str = ALL) -> tuple[str, ...]:
    """Return the names of a model's files to embed, sorted. `names` are all its files, and `what` is a choice."""
    check_choice(what)
    if what == NONE:
        return ()
    known = config_files(names, library=library or "transformers")
    found = [name for name in known if is_embeddable(name, library) and (folder / name).is_file()]
    if what == CONFIG_ONLY:
        depth = 1 if library == "diffusers" else 0
        return tuple(n for n in found if PurePosixPath(n).name in _CONFIGS and n.count("/") <= depth)
    unneeded = {
        name for home in {str(PurePosixPath(name).parent) for name in found} for name in _needless(folder, home, found)
    }
    return tuple(name for name in found if name not in unneeded)


def embedding_of(
    folder: Path,
    names: Iterable[str],
    library: str | None,
    what: str = ALL,
    *,
    strict: bool = False,
    own: Mapping[str, bytes] | None = None,
) -> Embedding | None:
    """Read and pack the files of a model to embed; None if there are none.

    With `strict`, too many or too large files are an error. Otherwise, only the configs are embedded. `own` is the
    content of files of the export itself, by name, to embed with the others.
    """
    names = tuple(names)
    chosen = embeddable(folder, names, library, what)
    total, limit = sum((folder / name).stat().st_size for name in chosen), largest_total()
    if len(chosen) > MOST_FILES or total > limit:
        fault = (
            f"{len(chosen)} files of {total} bytes exceed the limits for embedding ({MOST_FILES} files, {limit} bytes)"
        )
        if strict or what == CONFIG_ONLY:
            raise EmbeddedFilesError(f"{folder}: {fault}. {EMBEDDED_LIMIT} sets another limit, in MB.")
        logger.warning(
            "%s: %s: only the configs are embedded. %s sets another limit, in MB.", folder, fault, EMBEDDED_LIMIT
        )
        return embedding_of(folder, names, library, CONFIG_ONLY, own=own)
    contents = {name: (folder / name).read_bytes() for name in chosen} | (dict(own or {}) if what != NONE else {})
    for reference in references_in(contents):
        if contents.pop(reference.file, None) is not None:
            logger.warning(
                "%s is not embedded: it contains %s, and embedded files must not refer to code.",
                reference.file,
                reference,
            )
    return Embedding(described(contents), pack(contents)) if contents else None


def _needless(folder: Path, home: str, names: Sequence[str]) -> set[str]:
    """Return the files in one folder of a model that only a slow tokenizer reads, if a fast one is loaded."""
    inside = {PurePosixPath(name).name: name for name in names if str(PurePosixPath(name).parent) == home}
    slow = {base for base in inside if any(fnmatchcase(base, pattern) for pattern in _SLOW)}
    if TOKENIZER not in inside or not slow:
        return set()
    settings = _object(folder / home / _TOKENIZER_CONFIG)
    if "auto_map" in settings or settings.get("from_slow"):
        return set()
    sentencepiece = any(base.endswith(SENTENCEPIECE) for base in slow)
    if sentencepiece and settings.get("add_prefix_space") is not None:
        return set()  # transformers converts the slow tokenizer at each load.
    if not _is_fast(folder, home, settings):
        return set()
    return {inside[base] for base in slow}


def _is_fast(folder: Path, home: str, settings: Mapping[str, Any]) -> bool:
    """Whether the tokenizer in a folder is loaded as a fast one."""
    pipeline = _object(folder / MODEL_INDEX).get(home)
    if isinstance(pipeline, list) and len(pipeline) == 2:  # Library and class.
        return str(pipeline[1]).endswith("Fast")
    if any(_takes_slow(folder / home / name) for name in PREPROCESSOR_CONFIGS):
        return False
    names = tables.tokenizer_names()
    pairs = [pair for pair in names.values() if isinstance(pair, tuple)]
    name = settings.get("tokenizer_class")
    if isinstance(name, str):
        known = name.endswith("Fast") or any(pair[0] == name and pair[1] for pair in pairs)
        return known or tables.is_tokenizer_of_backend(name)
    pair = names.get(str(_object(folder / home / CONFIG).get("model_type")))
    return tables.is_tokenizer_of_backend(pair) if isinstance(pair, str) else bool(pair and pair[1])


def _takes_slow(path: Path) -> bool:
    """Whether a config names a processor that loads a slow tokenizer, or an unknown processor."""
    config = _object(path)
    name = config.get("processor_class")
    if "AutoProcessor" in (config.get("auto_map") or {}):
        return True
    if not isinstance(name, str):
        return False
    tokenizer = tables.tokenizer_of_processor(name)
    if tokenizer is None:
        return True
    return isinstance(tokenizer, str) and tokenizer != "AutoTokenizer" and not tokenizer.endswith("Fast")


def _object(path: Path) -> Mapping[str, Any]:
    content = read_json(path)
    return content if isinstance(content, dict) else {}
