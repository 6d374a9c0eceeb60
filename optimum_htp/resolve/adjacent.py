"""Checks whether adjacent files of an ONNX file, or files in a given folder, belong to its model and are complete.

An ONNX file in a repo may have been exported from an earlier commit of the same repo. The configs in the root of the
repo belong to the model at another commit, so the record of the file decides. Files in the subfolder of the ONNX file
were put there for it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from optimum_htp import plugins
from optimum_htp.errors import ConfigLoadError, HFHubIntegrationError, HubUnreachableError, RevisionNotFoundError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.hubs.huggingface.cache import RepoCache, is_known_missing
from optimum_htp.libraries.names import CONFIG, CONFIG_CLASSES, GENERATION_CONFIG, MODEL_INDEX, PREPROCESSOR_CONFIGS
from optimum_htp.libraries.preprocessors import EXTRACTORS, KINDS
from optimum_htp.libraries.repo_files import MODEL_CONFIGS, config_files, is_sentence_transformers_file, read_json
from optimum_htp.masking import get_logger
from optimum_htp.metadata import ExportMetadata
from optimum_htp.resolve.commit_files import ConfigFolder
from optimum_htp.resolve.config_fit import mismatch

__all__ = ["PIPELINE", "PREPROCESSORS", "AdjacentSearch", "configs_of_other_commit", "lies_in", "other_snapshot"]

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
_warned: Final[set[tuple[str | None, ...]]] = set()


@dataclass(frozen=True)
class AdjacentSearch:
    """A search for files next to an ONNX file, with arguments of `find`.

    `path` is None for a file on a Hub. `is_named` is whether the user named the file, not the folder.
    """

    path: Path | None
    record: ExportMetadata | None
    what: str
    is_named: bool
    revision: str | None


def lies_in(folder: Path, asked: AdjacentSearch, known: Collection[str] | None, *, alone: bool, needed: bool) -> bool:
    """Whether a folder contains the files of the search, and they belong to the ONNX file.

    `known` are the config and preprocessor files of the model; None if they are unknown. `alone` is whether they are
    not embedded too.

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


def other_snapshot(path: Path, record: ExportMetadata | None, access: HubAccess) -> Path | None:
    """Return the folder of the commit that a file was downloaded at, if its record has another commit of that repo."""
    if record is None or record.hub_id is None or "snapshots" not in path.absolute().parts:
        return None
    provider = record.hub_provider or plugins.HUGGING_FACE
    hub = next((hub for hub in plugins.hubs() if hub.name == provider), None)
    named = hub.cached_repo(path.absolute()) if hub is not None else None
    if named is None or named[1].startswith(_commit_of(record)):
        return None
    repo_id, commit = named
    folder = next((folder for folder in path.absolute().parents if folder.name == commit), None)
    if folder is None or _are_one_repo(repo_id, record.hub_id.replace("--", "/"), provider):
        return folder
    return folder if provider == plugins.HUGGING_FACE and _was_renamed(repo_id, folder, record, access) else None


def configs_of_other_commit(folder: Path, asked: AdjacentSearch) -> ConfigFolder | None:
    """Return the folder of another commit if it has the needed files, which are not available at the record's commit.

    A warning is logged once.
    """
    record = asked.record
    if record is None or not lies_in(folder, asked, None, alone=True, needed=False):
        return None
    own, other = _commit_of(record), folder.name
    if (record.hub_id, own, other) not in _warned:
        _warned.add((record.hub_id, own, other))
        logger.warning(
            "%s was exported from %s at %s, whose configs are not available. The configs at %s are used: if the "
            "model has changed, "
            "the results are wrong. Load it once with a connection, or pass "
            'config=AutoConfig.from_pretrained("%s", revision="%s").',
            asked.path or "The ONNX file",
            record.hub_id,
            own,
            other,
            record.hub_id,
            own,
        )
    return ConfigFolder(folder, (record.hub_provider or plugins.HUGGING_FACE, str(record.hub_id), other))


def _are_one_repo(one: str, other: str, provider: str) -> bool:
    """Whether two ids mean one repo: an old id without an organization leads to the present repo."""
    one, other = one.casefold(), other.casefold()
    if provider == plugins.HUGGING_FACE and ("/" in one) != ("/" in other):
        return one.rpartition("/")[2] == other.rpartition("/")[2]
    return one == other


def _was_renamed(repo_id: str, folder: Path, record: ExportMetadata, access: HubAccess) -> bool:
    """Whether a repo is the renamed repo of a record with an older id, so that it has the record's commit.

    It is asked for a file of that commit, once; the cache keeps the result. Without a connection, the embedded files
    count. A repo of another author who converted the model does not have the commit. `folder` has the files of the
    repo at the commit that the ONNX file was downloaded at.
    """
    commit, name, cache = record.hub_sha, next(iter(record.config_files or ()), CONFIG), folder.parents[2]
    if commit is None or is_known_missing(repo_id, name, cache, commit):
        return False
    own = folder.parent / commit / name
    if own.is_file() or not _may_differ(folder, record):
        return own.is_file()
    access = dataclasses.replace(access, cache_dir=cache, force_download=False)
    try:
        plugins.hub(plugins.HUGGING_FACE).snapshot(repo_id, commit, [name], access)
    except RevisionNotFoundError:
        RepoCache(repo_id, access).note_missing(commit, name)
    except HubUnreachableError:
        return bool(record.embedded_files)
    except HFHubIntegrationError as error:
        logger.debug("It cannot be checked whether %s is %s: %s", repo_id, record.hub_id, error)
    return own.is_file()


def _may_differ(folder: Path, record: ExportMetadata) -> bool:
    """Whether a file in a folder differs from the embedded file, or cannot be compared."""
    if not record.embedded_files:
        return (folder / CONFIG).is_file()
    for file in record.embedded_files:
        there = folder / file.name
        if there.is_file() and (
            there.stat().st_size != file.size or hashlib.sha256(there.read_bytes()).hexdigest() != file.sha256
        ):
            return True
    return False


def _commit_of(record: ExportMetadata) -> str:
    return record.hub_sha or record.hub_revision or ""
