"""The record of a file's origin, and its conversion to and from metadata properties."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields
from typing import Any, Final, Literal

from optimum_htp.errors import MetadataError, OptimumHTPError
from optimum_htp.masking import get_logger
from optimum_htp.metadata import kinds
from optimum_htp.metadata.kinds import FILE_KEYS, OLD_KEYS, PREFIX, EmbeddedFile, Key, key, readable_names
from optimum_htp.onnxfile import read_metadata
from optimum_htp.onnxfile.replace_file import identity_of

__all__ = [
    "KEYS",
    "METADATA_VERSION",
    "OWN_KEYS",
    "SHORT_COMMIT",
    "ExportMetadata",
    "has_record",
    "read_record",
    "record_if_any",
    "typed_property",
]

logger = get_logger(__name__)

METADATA_VERSION: Final = 1
SHORT_COMMIT: Final = 8  # Characters, as in the first tools.


@dataclass(frozen=True, kw_only=True)
class ExportMetadata:
    """The origin of an ONNX file. Each field is the metadata property `hf_<field>`; `KEYS` describes them."""

    metadata_version: int | None = key(
        kinds.COUNT,
        "always",
        "loaders",
        "version of the format: `1`; absent in files of older tools",
        default=METADATA_VERSION,
        is_needed=True,
    )
    model_type: Literal["hub", "local"] = key(
        kinds.MODEL_TYPE,
        "always",
        "loaders, `verify`",
        "whether the model is from a Hub",
        default=MISSING,
        is_needed=True,
    )
    hub_id: str | None = key(
        kinds.REPO_ID,
        "`hub`",
        "loaders, `verify`",
        "`name` or `organization/name`: each of 1 to 96 of `A-Za-z0-9_.-`, not beginning with `.` or `-`, without "
        "`--` and `..`",
        is_needed=True,
    )
    hub_sha: str | None = key(
        kinds.COMMIT, "`hub`", "loaders, `verify`", "the full commit, which loaders use", is_needed=True
    )
    hub_revision: str | None = key(
        kinds.ABBREVIATED,
        "`hub`",
        "people, loaders of older files",
        "the first 8 characters of the commit",
        is_needed=True,
    )
    hub_ref: str | None = key(
        kinds.TEXT, "if one was named", "people", "the branch, tag or `refs/pr/N` that the user named"
    )
    hub_provider: str | None = key(
        kinds.HUB_NAME,
        "if not the Hugging Face Hub",
        "loaders, `verify`",
        "the Hub: 1 to 63 of `a-z0-9_-`, not beginning with `_` or `-`; `modelscope` is ModelScope",
    )
    export_version: str | None = key(kinds.TEXT, "always", "people", "version of the writer")
    export_timestamp: str | None = key(kinds.DATE_TIME, "always", "people, loaders", "UTC, ISO 8601 with `Z`")
    task: str | None = key(kinds.TEXT, "always", "loaders, pipelines", "Optimum task: `text-generation-with-past`")
    export_library: str | None = key(
        kinds.TEXT, "always", "loaders", "`transformers`, `timm`, `sentence_transformers`, `diffusers`"
    )
    onnx_files: tuple[str, ...] = key(
        kinds.LIST,
        "several files",
        "loaders",
        "all ONNX files of the model, relative to the folder of the export",
        default=(),
        is_needed=True,
    )
    onnx_file: str | None = key(
        kinds.PATH, "several files", "loaders", "the name of this file among them, also after a rename", is_needed=True
    )
    export_id: str | None = key(
        kinds.TEXT,
        "several files",
        "loaders",
        "an identifier that all files of one export share, and no others",
        is_needed=True,
    )
    model_class: str | None = key(kinds.TEXT, "if known", "loaders, `verify`", "the exported class")
    preprocessors: tuple[str, ...] = key(
        kinds.AUTO_CLASSES,
        "if there are any",
        "loaders",
        "Auto classes that load the preprocessors, the most inclusive first: `AutoProcessor`, `AutoTokenizer`, "
        "`AutoFeatureExtractor`, `AutoImageProcessor` and others of transformers that end in `Processor`, "
        "`Tokenizer` or `FeatureExtractor`",
        default=(),
    )
    config_files: tuple[str, ...] | None = key(
        kinds.LIST,
        "`hub`, if the Hub lists files",
        "loaders, `verify`",
        "the repo's config and preprocessor files at the commit",
    )
    weight_files: Mapping[str, str] | None = key(
        kinds.DIGESTS,
        "`hub`, if the Hub reports digests",
        "`verify`",
        "the weight files that loaders read at the commit: name to the sha256 from the Hub (Git LFS)",
    )
    pipeline_tag: str | None = key(kinds.TEXT, "if known", "people, `push`", "the Hub's value at export")
    library_name: str | None = key(kinds.TEXT, "if known", "people", "the Hub's value at export")
    base_model: str | None = key(kinds.TEXT, "if known", "people", "the Hub's value at export")
    base_commits: Mapping[str, str] | None = key(
        kinds.COMMITS,
        "`local`, if known",
        "people, `verify`",
        "the repos that the weights come from, an adapter's and its base model's: repo id (of another Hub "
        "`acme://org/name`) to the full commit",
    )
    license: str | None = key(kinds.TEXT, "if known", "people, `push`", "the Hub's value at export")
    model_downloads: int | None = key(kinds.COUNT, "if known", "people", "the Hub's counter at export")
    model_likes: int | None = key(kinds.COUNT, "if known", "people", "the Hub's counter at export")
    private: bool | None = key(kinds.FLAG, "if known", "`push`", "the Hub's value at export")
    gated: bool | None = key(kinds.FLAG, "if known", "people", "the Hub's value at export")
    unchecked: tuple[str, ...] = key(
        kinds.UNCHECKED,
        "if there are any",
        "`verify`",
        "`config` or `preprocessors`, if the writer could not look them up; the graph was not checked against them",
        default=(),
    )
    original_producer: str | None = key(kinds.TEXT, "if replaced", "people", "earlier producer and its version")
    embedded_files: tuple[EmbeddedFile, ...] = key(
        kinds.EMBEDDED,
        "if any",
        "loaders",
        "the embedded config and preprocessor files of the model",
        default=(),
        is_needed=True,
    )
    embedded_in: str | None = key(
        kinds.PATH,
        "several files, except the one that contains them",
        "loaders",
        "the file of `hf_onnx_files` that contains them; absent if this file does",
        is_needed=True,
    )
    submodule: str | None = key(
        kinds.TEXT,
        "an extracted module",
        "loaders, `compare`",
        "its name in the model; the file contains this module only",
    )
    submodule_call: int | None = key(
        kinds.COUNT,
        "a module with several calls",
        "`compare`",
        "the number of the call, from 1 on, in the order of the file",
    )

    def to_properties(self) -> dict[str, str]:
        """Return the record as metadata properties, without unknown or empty values.

        Every written value can be read: a fact that its key does not allow (a Hub may send anything) is left out, with
        a warning.

        Raises:
            MetadataError: The record needs that fact.
        """
        properties = {}
        for one in KEYS.values():
            value = getattr(self, one.name)
            if value is None or (value == () and one.name != "config_files"):
                continue
            text = one.kind.encode(readable_names(value) if one.name == "config_files" else value)
            try:
                one.decode(text)
            except MetadataError as error:
                if one.is_needed:
                    raise
                logger.warning("Left out of the file's metadata: %s", error)
                continue
            properties[PREFIX + one.name] = text
        return properties

    @classmethod
    def from_properties(cls, properties: Mapping[str, str]) -> ExportMetadata | None:
        """Return the record in a file's metadata properties; None without one.

        Also reads the properties of older tools: `hf_downloads` and `hf_likes`, a short `hf_hub_revision` without
        `hf_hub_sha`, no `hf_metadata_version`. Unknown keys are ignored.

        Raises:
            MetadataError: A property has a value that its key does not allow.
        """
        if f"{PREFIX}hub_id" not in properties and f"{PREFIX}model_type" not in properties:
            return None
        values: dict[str, Any] = {"metadata_version": None}
        for one in KEYS.values():
            name = PREFIX + one.name
            text = properties.get(name, properties.get(OLD_KEYS.get(name, name)))
            if text is not None:
                values[one.name] = one.decode(text)
        values.setdefault("model_type", "hub")
        record = cls(**values)
        if (fault := next(record._contradictions(), None)) is not None:
            name, reason = fault
            raise MetadataError(reason, PREFIX + name)
        return record

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        """Yield each key that contradicts another one, with the reason."""
        if self.model_type == "hub" and not self.hub_id:
            yield "hub_id", "hf_model_type is 'hub', but hf_hub_id is missing."
        if self.model_type == "hub" and not (self.hub_sha or self.hub_revision):
            yield "hub_sha", f"hf_hub_id is {self.hub_id!r}, but there is neither hf_hub_sha nor hf_hub_revision."
        if self.hub_sha and self.hub_revision and not self.hub_sha.startswith(self.hub_revision):
            yield (
                "hub_revision",
                f"hf_hub_revision is {self.hub_revision!r}, but hf_hub_sha begins with other characters.",
            )
        if self.onnx_file is not None and self.onnx_file not in self.onnx_files:
            yield "onnx_file", f"hf_onnx_file is {self.onnx_file!r}, but hf_onnx_files does not list it."
        if self.embedded_in is not None and not self.embedded_files:
            yield "embedded_in", f"hf_embedded_in is {self.embedded_in!r}, but hf_embedded_files is missing."
        if self.embedded_in is not None and self.embedded_in not in self.onnx_files:
            yield "embedded_in", f"hf_embedded_in is {self.embedded_in!r}, but hf_onnx_files does not list it."

    def belongs_with(self, other: ExportMetadata) -> bool:
        """Whether two files come from the same export."""
        return all(
            getattr(self, name) == getattr(other, name)
            for name in ("hub_provider", "hub_id", "hub_sha", "export_timestamp", "onnx_files", "export_id")
        )

    @property
    def base_models(self) -> str:
        """The repos that the weights of a local model come from, for messages; empty if they are unknown."""
        return ", ".join(f"{repo_id} at {commit}" for repo_id, commit in (self.base_commits or {}).items())

    @property
    def source(self) -> str:
        """The model for messages: `org/name@1a2b3c4d`, with another Hub's name before it, or `a local model`."""
        if self.hub_id is None:
            return "a local model"
        prefix = "" if self.hub_provider is None else f"{self.hub_provider}://"
        return f"{prefix}{self.hub_id}@{(self.hub_sha or self.hub_revision or '?')[:SHORT_COMMIT]}"


KEYS: Final = {one.name: Key(one.name, **one.metadata) for one in fields(ExportMetadata)}
"""The keys of the record, by the names of its fields."""
OWN_KEYS: Final = frozenset({*(PREFIX + one.name for one in (*KEYS.values(), *FILE_KEYS)), *OLD_KEYS.values()})
"""The model-level keys of this format. Other tools also have keys that begin with `hf_`, and some of these."""
# Each writer of records sets one of these. Other tools that use a key of the format do not.
_SIGNS: Final = tuple(f"{PREFIX}{name}" for name in ("metadata_version", "export_version", "hub_sha", "hub_revision"))


def has_record(properties: Mapping[str, str]) -> bool:
    """Whether a file's keys of this format belong to a record, valid or not, and not to another tool."""
    kind = properties.get(f"{PREFIX}model_type")
    if kind in ("hub", "local"):
        return True
    return (kind is not None or f"{PREFIX}hub_id" in properties) and any(key in properties for key in _SIGNS)


def typed_property(name: str, text: str) -> Any:
    """Return a property's value in Python: a count as int, a flag as bool, all others as text.

    Raises:
        MetadataError: The key does not allow the value.
    """
    new = next((new for new, old in OLD_KEYS.items() if old == name), name)
    known = KEYS.get(new.removeprefix(PREFIX))
    return known.decode(text) if known is not None and known.kind.is_simple else text


# A load reads a file's record when it searches for the file, and again under the lock against replacement.
_read: Final[dict[tuple[int, ...], ExportMetadata]] = {}
_REMEMBERED: Final = 64
_SETTLED: Final = 2_000_000_000  # Nanoseconds; as in git (https://git-scm.com/docs/racy-git).


def read_record(path: str | os.PathLike[str]) -> ExportMetadata | None:
    """Return the record of an ONNX file; None without one.

    Raises:
        OnnxFileNotFoundError, OnnxReadError, InvalidOnnxFileError: There is no readable ONNX model at the path.
        MetadataError: A property has a value that its key does not allow.
    """
    identity = _identity(path)
    if identity is not None and (known := _read.get(identity)) is not None:
        return known
    try:
        record = ExportMetadata.from_properties(read_metadata(path))
    except MetadataError as error:
        raise type(error)(f"{os.fspath(path)}: {error}", error.key) from error
    if record is not None and identity is not None and identity == _identity(path):
        if len(_read) >= _REMEMBERED:
            _read.clear()
        _read[identity] = record
    return record


def _identity(path: str | os.PathLike[str]) -> tuple[int, ...] | None:
    """Return values that identify a file's content; None if a change within a clock tick might not be visible."""
    try:
        status = os.stat(path)  # noqa: PTH116 - a path of any kind
    except (OSError, ValueError):
        return None
    if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) < _SETTLED:
        return None
    return *identity_of(status), status.st_ctime_ns


def record_if_any(path: str | os.PathLike[str]) -> ExportMetadata | None:
    """Return the record of any file; None without a readable one."""
    with suppress(OptimumHTPError, OSError):
        return read_record(path)
    return None
