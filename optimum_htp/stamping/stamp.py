"""Writing a record into ONNX files, with the header fields that people and other tools look at."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from optimum_htp.errors import ArgumentError, FileTooLargeError
from optimum_htp.hierarchy.tags import TagWriter, check_taggable
from optimum_htp.metadata import EMBEDDED_ZIP, PREFIX, ExportMetadata
from optimum_htp.onnxfile import ModelHeader, OpenModel
from optimum_htp.version import __version__

__all__ = [
    "AUTHOR",
    "DOMAINS",
    "LICENSE",
    "PRODUCER",
    "STANDARD_KEYS",
    "is_our_doc_string",
    "is_reproducible",
    "now",
    "our_standard_keys",
    "stamp",
]

PRODUCER: Final = "optimum-htp"
# The two properties that ONNX itself defines: https://github.com/onnx/onnx/blob/main/docs/MetadataProps.md
AUTHOR: Final = "model_author"
LICENSE: Final = "model_license"
STANDARD_KEYS: Final = f"{PREFIX}standard_keys"
"""The property that notes which of them a stamp has set, and to what. It is about the file, not of the record."""
DOMAINS: Final = {"hub": "co.huggingface", "local": "local.optimum-htp"}


def stamp(
    path: Path,
    metadata: ExportMetadata,
    *,
    author: str | None,
    extra: Mapping[str, str],
    tags: TagWriter | None = None,
    archive: str | None = None,
    external_data: bool | None = False,
) -> ExportMetadata:
    """Write a record into an ONNX file, in place of one that it may have; return it as written.

    Args:
        path: The file.
        metadata: The record; `original_producer` is filled in from the file.
        author: Who made the model.
        extra: Further properties, of plugins.
        tags: Also written into the nodes, in the same pass over the file.
        archive: The files that travel with the model, where they do so in this one.
        external_data: Whether to move the weights to a new file next to the model; None to do it where the file would
            be too large.

    Raises:
        OnnxFileNotFoundError, InvalidOnnxFileError: There is no ONNX model at the path.
        FileTooLargeError: The file would have more than 2 GiB.
        OnnxWriteError: The file cannot be written, or cannot take tags. It is as it was.
    """
    with OpenModel.at(path) as model:
        header = model.header
        if tags is not None:
            check_taggable(model)
        producer = f"{header.producer_name} {header.producer_version}".strip()
        if header.producer_name == PRODUCER:  # stamped before: what it replaced then is what counts
            producer = header.metadata.get(f"{PREFIX}original_producer", "")
        metadata = dataclasses.replace(metadata, original_producer=producer or None)
        ours = our_standard_keys(header)
        taken = (header.metadata.keys() - ours) | extra.keys()  # what somebody else said of the model stays
        known = {AUTHOR: author, LICENSE: metadata.license}
        standard = {key: value for key, value in known.items() if value and key not in taken}
        write = functools.partial(
            model.rewrite,
            metadata={
                **standard,
                **extra,
                **(tags.metadata if tags is not None else {}),
                **metadata.to_properties(),
                STANDARD_KEYS: json.dumps(standard, ensure_ascii=False, separators=(",", ":")),
                **({} if archive is None else {EMBEDDED_ZIP: archive}),
            },
            drop=lambda key: key.startswith(PREFIX) or key in ours,
            ir_version=tags.ir_version(header.ir_version) if tags is not None else None,
            producer_name=PRODUCER,
            producer_version=__version__,
            domain=DOMAINS[metadata.model_type] if header.domain in ("", *DOMAINS.values()) else header.domain,
            doc_string=_doc_string(metadata)
            if not header.doc_string or is_our_doc_string(header.doc_string)
            else header.doc_string,
        )
        if external_data is not None:
            write(nodes=tags.visitor() if tags is not None else None, external_data=external_data)
            return metadata
        try:
            write(nodes=tags.visitor() if tags is not None else None)
        except FileTooLargeError:
            write(nodes=tags.visitor() if tags is not None else None, external_data=True)
    return metadata


def our_standard_keys(header: ModelHeader) -> frozenset[str]:
    """Return which of ONNX's standard keys have what a stamp put there, and nobody has changed since."""
    noted = _noted(header.metadata)
    return frozenset(key for key in (AUTHOR, LICENSE) if header.metadata.get(key, "") == noted.get(key))


def _noted(metadata: Mapping[str, str]) -> Mapping[str, Any]:
    """Return what a stamp says that it has set; in a file of before there were notes, what it would have set."""
    text = metadata.get(STANDARD_KEYS)
    if text is None:
        owner, slash, _ = metadata.get(f"{PREFIX}hub_id", "").partition("/")
        return {AUTHOR: owner if slash else None, LICENSE: metadata.get(f"{PREFIX}license")}
    try:
        noted = json.loads(text)
    except (ValueError, RecursionError):  # then nothing is known to be ours, and nothing of others' is lost
        return {}
    return noted if isinstance(noted, dict) else {}


def is_reproducible() -> bool:
    """Whether the user asks for exports that are equal byte for byte (https://reproducible-builds.org/specs/source-date-epoch/)."""
    return bool(os.environ.get("SOURCE_DATE_EPOCH"))


def now() -> str:
    """Return the time of an export: UTC, ISO 8601 with `Z`; that of `SOURCE_DATE_EPOCH` where it is set."""
    if is_reproducible():
        text = os.environ["SOURCE_DATE_EPOCH"]
        try:
            moment = datetime.fromtimestamp(int(text), timezone.utc)
        except (ValueError, OverflowError) as error:
            raise ArgumentError(f"SOURCE_DATE_EPOCH is {text!r}: it has to be seconds since 1970.") from error
    else:
        moment = datetime.now(timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _doc_string(metadata: ExportMetadata) -> str:
    model = metadata.hub_id or "a local model"
    commit = f" at commit {metadata.hub_sha}" if metadata.hub_sha else ""
    return (
        f"Exported from {model}{commit} for {metadata.task}\n"
        f"with {PRODUCER} {metadata.export_version} on {metadata.export_timestamp}."
    )


def is_our_doc_string(text: str) -> bool:
    """Whether a doc string is one that `stamp` wrote."""
    return text.startswith("Exported from ") and f"\nwith {PRODUCER} " in text
