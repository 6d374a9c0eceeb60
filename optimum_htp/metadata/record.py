"""What a file says of where it came from: a record, to and from the properties that hold it."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from optimum_htp.errors import MetadataError, OptimumHTPError
from optimum_htp.masking import get_logger
from optimum_htp.metadata.values import (
    EMBEDDED_ZIP,
    OLD_KEYS,
    ORIGINAL,
    PREFIX,
    SHORT_COMMIT,
    STANDARD_KEYS,
    EmbeddedFile,
    decode,
    encode,
    readable_names,
)
from optimum_htp.onnxfile import read_metadata

__all__ = ["METADATA_VERSION", "OWN_KEYS", "ExportMetadata", "has_record", "read_record", "record_if_any"]

logger = get_logger(__name__)

METADATA_VERSION: Final = 1
# What a record says nothing without; anything else is left out where it could not be read again.
_NEEDED: Final = frozenset(
    {
        "metadata_version",
        "model_type",
        "hub_id",
        "hub_sha",
        "hub_revision",
        "onnx_files",
        "onnx_file",
        "export_id",
        "embedded_files",
        "embedded_in",
    }
)


@dataclass(frozen=True, kw_only=True)
class ExportMetadata:
    """Where an ONNX file came from. Each field is the metadata property `hf_<field>`.

    Attributes:
        metadata_version: Version of this format; None in files of older tools.
        model_type: `hub` for a model of a Hub, `local` for any other.
        hub_id: Repo id.
        hub_sha: Full commit, 40 hexadecimal digits. The only thing that pins.
        hub_revision: First characters of the commit, for people and for files of older tools.
        hub_ref: The branch, tag or `refs/pr/N` that the user asked for.
        hub_provider: Name of the Hub where it is not the Hugging Face Hub.
        export_version: Version of optimum-htp.
        export_timestamp: UTC, ISO 8601 with `Z`.
        task: The Optimum task that was exported.
        export_library: The library that Optimum exported with.
        onnx_files: The files that make up a multi-file model, relative to the export's folder, with `/`.
        export_id: What the files of one multi-file export have in common, and no others.
        onnx_file: Which of `onnx_files` this file is; it tells a renamed file's part in the model.
        model_class: Name of the class that was exported.
        preprocessors: The Auto classes that load the preprocessors, the most inclusive first.
        config_files: The repo's config and preprocessor files at the commit; None where nobody listed them.
        weight_files: The weight files that loaders of the commit take, and the sha256 that the Hub states for each;
            None where it states none.
        pipeline_tag, library_name, base_model, license, model_downloads, model_likes, private, gated:
            As the Hub said at export.
        base_commits: The repos that the weights of a local model come from, an adapter's and its base model's, and the
            commit of each.
        unchecked: What a writer without a connection could not look up: `config`, `preprocessors`.
        original_producer: Name and version of the producer that our stamp replaced.
        embedded_files: The model's config and preprocessor files that travel with it.
        embedded_in: Which of `onnx_files` holds them; None where this file does.
        submodule: The module that the file is, by its name in the model, where it was cut out of one.
        submodule_call: Which of its calls, where the model calls it several times.
    """

    metadata_version: int | None = METADATA_VERSION
    model_type: Literal["hub", "local"]
    hub_id: str | None = None
    hub_sha: str | None = None
    hub_revision: str | None = None
    hub_ref: str | None = None
    hub_provider: str | None = None
    export_version: str | None = None
    export_timestamp: str | None = None
    task: str | None = None
    export_library: str | None = None
    onnx_files: tuple[str, ...] = ()
    onnx_file: str | None = None
    export_id: str | None = None
    model_class: str | None = None
    preprocessors: tuple[str, ...] = ()
    config_files: tuple[str, ...] | None = None
    weight_files: Mapping[str, str] | None = None
    pipeline_tag: str | None = None
    library_name: str | None = None
    base_model: str | None = None
    base_commits: Mapping[str, str] | None = None
    license: str | None = None
    model_downloads: int | None = None
    model_likes: int | None = None
    private: bool | None = None
    gated: bool | None = None
    unchecked: tuple[str, ...] = ()
    original_producer: str | None = None
    embedded_files: tuple[EmbeddedFile, ...] = ()
    embedded_in: str | None = None
    submodule: str | None = None
    submodule_call: int | None = None

    def to_properties(self) -> dict[str, str]:
        """Return the record as metadata properties, leaving out what is unknown or empty.

        What is written can be read: a fact that its key does not allow (a Hub may say anything) is left out, with a
        warning.

        Raises:
            MetadataError: The record cannot do without that fact.
        """
        properties = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is None or (value == () and field.name != "config_files"):
                continue
            if field.name == "config_files":
                value = readable_names(value)
            text = encode(field.name, value)
            try:
                decode(field.name, text)
            except MetadataError as error:
                if field.name in _NEEDED:
                    raise
                logger.warning("Left out of the file's metadata: %s", error)
                continue
            properties[PREFIX + field.name] = text
        return properties

    @classmethod
    def from_properties(cls, properties: Mapping[str, str]) -> ExportMetadata | None:
        """Return the record that a file's metadata properties hold, or None when they hold none.

        Also reads what older tools wrote: `hf_downloads` and `hf_likes`, a short `hf_hub_revision` without
        `hf_hub_sha`, no `hf_metadata_version`. Unknown keys are left alone.

        Raises:
            MetadataError: A property has a value that its key does not allow.
        """
        if f"{PREFIX}hub_id" not in properties and f"{PREFIX}model_type" not in properties:
            return None
        values: dict[str, Any] = {"metadata_version": None}
        for field in dataclasses.fields(cls):
            key = PREFIX + field.name
            text = properties.get(key, properties.get(OLD_KEYS.get(key, key)))
            if text is not None:
                values[field.name] = decode(field.name, text)
        values.setdefault("model_type", "hub")
        record = cls(**values)
        if record.model_type == "hub" and not record.hub_id:
            raise MetadataError("hf_model_type is 'hub', but hf_hub_id is missing.", f"{PREFIX}hub_id")
        if record.model_type == "hub" and not (record.hub_sha or record.hub_revision):
            raise MetadataError(
                f"hf_hub_id is {record.hub_id!r}, but neither hf_hub_sha nor hf_hub_revision says which commit.",
                f"{PREFIX}hub_sha",
            )
        if record.hub_sha and record.hub_revision and not record.hub_sha.startswith(record.hub_revision):
            raise MetadataError(
                f"hf_hub_revision is {record.hub_revision!r}, and hf_hub_sha begins otherwise.",
                f"{PREFIX}hub_revision",
            )
        if record.onnx_file is not None and record.onnx_file not in record.onnx_files:
            raise MetadataError(
                f"hf_onnx_file is {record.onnx_file!r}, which hf_onnx_files does not list.", f"{PREFIX}onnx_file"
            )
        if record.embedded_in is not None and not record.embedded_files:
            raise MetadataError(
                f"hf_embedded_in is {record.embedded_in!r}, and hf_embedded_files does not say what is there.",
                f"{PREFIX}embedded_in",
            )
        if record.embedded_in is not None and record.embedded_in not in record.onnx_files:
            raise MetadataError(
                f"hf_embedded_in is {record.embedded_in!r}, which hf_onnx_files does not list.", f"{PREFIX}embedded_in"
            )
        return record

    def belongs_with(self, other: ExportMetadata) -> bool:
        """Whether two files come from the same export."""
        return all(
            getattr(self, name) == getattr(other, name)
            for name in ("hub_provider", "hub_id", "hub_sha", "export_timestamp", "onnx_files", "export_id")
        )

    @property
    def base_models(self) -> str:
        """The repos that the weights of a local model come from, in words; nothing where none are known."""
        return ", ".join(f"{repo_id} at {commit}" for repo_id, commit in (self.base_commits or {}).items())

    @property
    def source(self) -> str:
        """The model in words: `org/name at 1a2b3c4d`, or `a local model`; of another Hub `acme://org/name at …`."""
        if self.hub_id is None:
            return "a local model"
        prefix = "" if self.hub_provider is None else f"{self.hub_provider}://"
        return f"{prefix}{self.hub_id} at {(self.hub_sha or self.hub_revision or '?')[:SHORT_COMMIT]}"


OWN_KEYS: Final = frozenset(
    {
        *(PREFIX + field.name for field in dataclasses.fields(ExportMetadata)),
        *OLD_KEYS.values(),
        EMBEDDED_ZIP,
        ORIGINAL,
        STANDARD_KEYS,
    }
)
"""The model-level keys of this format. Other tools have keys that begin with `hf_` too, and some have these."""
# Each writer of records sets one of these; other tools that happen to have a key of the format do not.
_SIGNS: Final = tuple(f"{PREFIX}{name}" for name in ("metadata_version", "export_version", "hub_sha", "hub_revision"))


def has_record(properties: Mapping[str, str]) -> bool:
    """Whether a file's keys of this format belong to a record, valid or not, rather than to another tool."""
    kind = properties.get(f"{PREFIX}model_type")
    if kind in ("hub", "local"):
        return True
    return (kind is not None or f"{PREFIX}hub_id" in properties) and any(key in properties for key in _SIGNS)


# A load reads a file's record where it looks for the file, and again where it is sure that nobody replaces it.
_read: Final[dict[tuple[int, ...], ExportMetadata]] = {}
_REMEMBERED: Final = 64
_SETTLED: Final = 2_000_000_000  # nanoseconds; as git does it (https://git-scm.com/docs/racy-git)


def read_record(path: str | os.PathLike[str]) -> ExportMetadata | None:
    """Return what an ONNX file says of where it came from; None where it says nothing.

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
    """Return what tells a file's content from any other; None where a change within a clock's tick might not show."""
    try:
        status = os.stat(path)  # noqa: PTH116 - a path of any kind
    except (OSError, ValueError):
        return None
    if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) < _SETTLED:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def record_if_any(path: str | os.PathLike[str]) -> ExportMetadata | None:
    """Return the record of a file that may be anything; None where it has none that can be read."""
    try:
        return read_record(path)
    except (OptimumHTPError, OSError):
        return None
