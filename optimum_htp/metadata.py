"""The record of where an ONNX file came from, and its form as metadata properties.

The properties of a stamped file look like this (version 1 of the format):

    hf_metadata_version   1
    hf_model_type         hub
    hf_hub_id             google-bert/bert-base-uncased
    hf_hub_sha            86b5e0934494bd15c9632b12f734a8a67f723594
    hf_hub_revision       86b5e093
    hf_export_version     0.1.0
    hf_export_timestamp   2026-01-31T12:00:00Z
    hf_task               fill-mask
    hf_preprocessors      AutoTokenizer
    ...

Everything that is pinned is pinned by `hf_hub_sha`: a commit never changes, so a record never goes stale.
A record is a claim of whoever wrote the file, and is read as untrusted input.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, cast

from optimum_htp.errors import HFHubIntegrationError, MetadataError
from optimum_htp.onnxfile import read_metadata

__all__ = [
    "EMBEDDED_ZIP",
    "METADATA_VERSION",
    "PREFIX",
    "SHORT_COMMIT",
    "EmbeddedFile",
    "ExportMetadata",
    "is_repo_id",
    "read_record",
    "record_if_any",
    "typed_property",
]

logger = logging.getLogger(__name__)

METADATA_VERSION: Final = 1
PREFIX: Final = "hf_"
EMBEDDED_ZIP: Final = "hf_embedded_zip"
"""The property with the embedded files themselves. It is no part of the record, which is read without it."""
SHORT_COMMIT: Final = 8  # characters, as the first tools wrote it
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_SHORT: Final = re.compile(r"[0-9a-f]{7,40}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_REPO_ID: Final = re.compile(r"(?!.*(--|\.\.))\w[\w.-]{0,95}(/\w[\w.-]{0,95})?", re.ASCII)
_PROVIDER: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_MOST_FILES: Final = 512  # in a list of them
_LONGEST_LIST: Final = 1 << 17  # characters
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


@dataclass(frozen=True)
class EmbeddedFile:
    """A file that travels inside an ONNX file.

    Attributes:
        name: Relative to the model's repo or folder, with `/`.
        size: Bytes.
        sha256: Digest of the content, in hexadecimal.
    """

    name: str
    size: int
    sha256: str


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
                value = _readable_names(value)
            text = _encode(field.name, value)
            try:
                _decode(field.name, text)
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
            text = properties.get(key, properties.get(_OLD_KEYS.get(key, key)))
            if text is not None:
                values[field.name] = _decode(field.name, text)
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
    def source(self) -> str:
        """The model in words: `org/name at 1a2b3c4d`, or `a local model`; of another Hub `acme://org/name at …`."""
        if self.hub_id is None:
            return "a local model"
        prefix = "" if self.hub_provider is None else f"{self.hub_provider}://"
        return f"{prefix}{self.hub_id} at {(self.hub_sha or self.hub_revision or '?')[:SHORT_COMMIT]}"


def read_record(path: str | os.PathLike[str]) -> ExportMetadata | None:
    """Return what an ONNX file says of where it came from; None where it says nothing.

    Raises:
        OnnxFileNotFoundError, OnnxReadError, InvalidOnnxFileError: There is no readable ONNX model at the path.
        MetadataError: A property has a value that its key does not allow.
    """
    try:
        return ExportMetadata.from_properties(read_metadata(path))
    except MetadataError as error:
        raise type(error)(f"{os.fspath(path)}: {error}", error.key) from error


def record_if_any(path: str | os.PathLike[str]) -> ExportMetadata | None:
    """Return the record of a file that may be anything; None where it has none that can be read."""
    try:
        return read_record(path)
    except (HFHubIntegrationError, OSError):
        return None


def is_repo_id(text: str) -> bool:
    """Whether a text can be a repo id in this format, whatever else the Hub that it is for may ask of one."""
    return _REPO_ID.fullmatch(text) is not None


def typed_property(key: str, text: str) -> Any:
    """Return a property's value as Python has it: a count as int, a flag as bool, everything else as the text it is.

    Raises:
        MetadataError: The key does not allow the value.
    """
    name = next((new for new, old in _OLD_KEYS.items() if old == key), key).removeprefix(PREFIX)
    return _decode(name, text) if _DECODERS.get(name) in (_count, _flag) else text


# Older tools wrote the counters under these names.
_OLD_KEYS: Final = {"hf_model_downloads": "hf_downloads", "hf_model_likes": "hf_likes"}


def _encode(name: str, value: Any) -> str:
    if name in ("onnx_files", "config_files"):
        return json.dumps(list(value), ensure_ascii=False)
    if name == "weight_files":
        return json.dumps(dict(sorted(value.items())), ensure_ascii=False)
    if name in ("preprocessors", "unchecked"):
        return ",".join(value)
    if name == "embedded_files":
        return json.dumps([dataclasses.asdict(one) for one in value], ensure_ascii=False, separators=(",", ":"))
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def _decode(name: str, text: str) -> Any:
    decoder = _DECODERS.get(name)
    try:
        text.encode()  # lone surrogates are no text that a file can hold
        return text if decoder is None else decoder(text)
    except ValueError as error:
        shown = text if len(text) <= 80 else f"{text[:80]}…"
        raise MetadataError(f"{PREFIX}{name} is {shown!r}: {error}.", PREFIX + name) from error


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ValueError("it has to be a whole number")
    return int(text)


def _flag(text: str) -> bool:
    if text not in ("true", "false", "True", "False", "auto", "manual"):
        raise ValueError("it has to be true or false")
    return text.lower() != "false"


def _one_of(*allowed: str) -> Callable[[str], str]:
    def decode(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"it has to be {' or '.join(allowed)}")
        return text

    return decode


def _matching(pattern: re.Pattern[str], what: str) -> Callable[[str], str]:
    def decode(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(f"it has to be {what}")
        return text

    return decode


def _file_list(text: str) -> tuple[str, ...]:
    """Decode a JSON list of relative paths; a path that leads out of its folder is refused."""
    if len(text) > _LONGEST_LIST:
        raise ValueError(f"a list of files has at most {_LONGEST_LIST} characters")
    try:
        names = json.loads(text)
    except RecursionError as error:
        raise ValueError("it has to be a JSON list of file names") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("it has to be a JSON list of file names")
    if len(names) > _MOST_FILES:
        raise ValueError(f"a list of files has at most {_MOST_FILES} names")
    for name in cast("list[str]", names):
        if not _is_inside(name):
            raise ValueError(f"{name!r} is not a path inside the model's folder")
    return tuple(names)


def _embedded_files(text: str) -> tuple[EmbeddedFile, ...]:
    """Decode a JSON list of names, sizes and digests. No two names are one on any filesystem."""
    what = "it has to be a JSON list of objects with name, size and sha256"
    if len(text) > _LONGEST_LIST:
        raise ValueError(f"a list of files has at most {_LONGEST_LIST} characters")
    try:
        entries = json.loads(text)
    except RecursionError as error:
        raise ValueError(what) from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(what)
    files = tuple(EmbeddedFile(*(entry.get(key) for key in ("name", "size", "sha256"))) for entry in entries)
    for file in files:
        if not isinstance(file.sha256, str) or not _SHA256.fullmatch(file.sha256):
            raise ValueError(what)
        if isinstance(file.size, bool) or not isinstance(file.size, int) or not 0 <= file.size < 1 << 40:
            raise ValueError(what)
    _file_list(json.dumps([file.name for file in files]))
    if len({file.name.casefold() for file in files}) < len(files):
        raise ValueError("it names a file twice")
    return files


def _digests(text: str) -> dict[str, str]:
    """Decode a JSON object of relative paths and sha256 digests."""
    if len(text) > _LONGEST_LIST:
        raise ValueError(f"it has at most {_LONGEST_LIST} characters")
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError("it has to be a JSON object of file names and sha256 digests") from error
    if not isinstance(content, dict) or not all(
        isinstance(digest, str) and _SHA256.fullmatch(digest) for digest in content.values()
    ):
        raise ValueError("it has to be a JSON object of file names and sha256 digests")
    _file_list(json.dumps(list(content)))
    return content


def _is_inside(name: str) -> bool:
    parts = re.split(r"[/\\]", name)
    if any(part in ("", ".", "..") for part in parts) or ":" in name or "\0" in name:
        return False
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _readable_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Leave out files of a repo that a list of files cannot name (`sp:v2.model` is none on Windows)."""
    kept = tuple(name for name in names if _is_inside(name))
    if len(kept) < len(names):
        logger.warning("Left out of the file's metadata: %s", sorted(set(names) - set(kept)))
    return kept


def _file_name(text: str) -> str:
    return _file_list(json.dumps([text]))[0]


def _auto_classes(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in ("AutoProcessor", "AutoTokenizer", "AutoImageProcessor", "AutoFeatureExtractor"):
            raise ValueError(f"{name!r} is not an Auto class that loads preprocessors")
    return names


def _timestamp(text: str) -> str:
    datetime.fromisoformat(text.removesuffix("Z") + "+00:00" if text.endswith("Z") else text)
    return text


def _repo_id(text: str) -> str:
    if not is_repo_id(text):
        raise ValueError("it is not a repo id")
    return text


_DECODERS: Final[dict[str, Callable[[str], Any]]] = {
    "model_type": _one_of("hub", "local"),
    "hub_id": _repo_id,
    "hub_provider": _matching(_PROVIDER, "the name of a Hub, as a plugin provides it"),
    "hub_sha": _matching(_COMMIT, "a full commit, 40 hexadecimal digits"),
    "hub_revision": _matching(_SHORT, "7 to 40 hexadecimal digits"),
    "export_timestamp": _timestamp,
    "onnx_files": _file_list,
    "onnx_file": _file_name,
    "preprocessors": _auto_classes,
    "config_files": _file_list,
    "embedded_files": _embedded_files,
    "embedded_in": _file_name,
    "weight_files": _digests,
    "unchecked": lambda text: tuple(map(_one_of("config", "preprocessors"), text.split(","))),
    "model_downloads": _count,
    "model_likes": _count,
    "private": _flag,
    "gated": _flag,
    "metadata_version": _count,
    "submodule_call": _count,
}
