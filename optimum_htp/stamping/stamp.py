"""Write a record and standard header fields into ONNX files."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from types import MappingProxyType

from optimum_htp.errors import ArgumentError, FileTooLargeError
from optimum_htp.hierarchy.tags import TagWriter, check_taggable, without_traces
from optimum_htp.metadata import EMBEDDED_ZIP, ORIGINAL, OWN_KEYS, STANDARD_KEYS, ExportMetadata
from optimum_htp.onnxfile import NodeVisitor, OpenModel
from optimum_htp.stamping.originals import AUTHOR, DOMAINS, LICENSE, PRODUCER, original_of
from optimum_htp.version import __version__

__all__ = ["is_reproducible", "now", "stamp"]


def stamp(
    path: Path,
    metadata: ExportMetadata,
    *,
    author: str | None,
    extra: Mapping[str, str],
    carried: Mapping[str, str] = MappingProxyType({}),
    tags: TagWriter | None = None,
    archive: str | None = None,
    external_data: bool | None = False,
    is_export: bool = False,
) -> ExportMetadata:
    """Write a record into an ONNX file. An existing record is replaced.

    Args:
        path: The file.
        metadata: The record. `original_producer` is filled in from the file.
        author: The author of the model.
        extra: Further properties, from plugins.
        carried: Properties of other tools, from the file that this file was made from. `strip` keeps them.
        tags: Tags to write into the nodes in the same pass.
        archive: The archive of embedded files, if this file contains it.
        external_data: Whether to move the weights to a new file next to the model. None to do so only if the file
            would be too large.
        is_export: Whether this process exported the file. If so, information about this machine is removed from the
            nodes.

    Returns:
        The record as written.

    Raises:
        OnnxFileNotFoundError, InvalidOnnxFileError: There is no ONNX model at the path.
        FileTooLargeError: The file would have more than 2 GiB.
        OnnxWriteError: The file cannot be written, or cannot contain tags. It is unchanged.
    """
    with OpenModel.at(path) as model:
        header = model.header
        if tags is not None:
            check_taggable(model)
        before = original_of(header)
        named = (before.texts.get(name, "") for name in ("producer_name", "producer_version"))
        metadata = dataclasses.replace(metadata, original_producer=" ".join(filter(None, named)) or None)
        taken = before.metadata.keys() | extra.keys() | carried.keys()  # Values of other tools are kept.
        known = {AUTHOR: author, LICENSE: metadata.license}
        standard = {key: value for key, value in known.items() if value and key not in taken}
        texts = {"producer_name": PRODUCER, "producer_version": __version__}
        if before.texts.get("domain", "") == "":
            texts["domain"] = DOMAINS[metadata.model_type]
        if before.texts.get("doc_string", "") == "":
            texts["doc_string"] = _doc_string(metadata)
        properties = {
            **{key: value for key, value in before.replaced.items() if key not in OWN_KEYS},
            **carried,
            **standard,
            **extra,
            **(tags.metadata if tags is not None else {}),
            **metadata.to_properties(),
            STANDARD_KEYS: json.dumps(standard, ensure_ascii=False, separators=(",", ":")),
        }
        version = header.ir_version if tags is None else tags.ir_version(header.ir_version)
        if version != header.ir_version:
            before = dataclasses.replace(before, ir_version=header.ir_version)
        write = functools.partial(
            model.rewrite,
            metadata={
                **properties,
                ORIGINAL: before.note(texts, properties, extra),
                **({} if archive is None else {EMBEDDED_ZIP: archive}),
            },
            drop=(OWN_KEYS | before.dropped).__contains__,
            ir_version=version if version != header.ir_version else None,
            texts=texts,
        )

        def nodes() -> NodeVisitor | None:
            if tags is not None:
                return tags.visitor()
            return without_traces if is_export else None

        if external_data is not None:
            write(nodes=nodes(), external_data=external_data)
            return metadata
        try:
            write(nodes=nodes())
        except FileTooLargeError:
            write(nodes=nodes(), external_data=True)
    return metadata


def is_reproducible() -> bool:
    """Whether the user requests reproducible exports (https://reproducible-builds.org/specs/source-date-epoch/)."""
    return bool(os.environ.get("SOURCE_DATE_EPOCH"))


def now() -> str:
    """Return the time of an export: UTC, ISO 8601 with `Z`; the time in `SOURCE_DATE_EPOCH` if it is set."""
    if is_reproducible():
        text = os.environ["SOURCE_DATE_EPOCH"]
        try:
            moment = datetime.fromtimestamp(int(text), timezone.utc)
        except (ValueError, OverflowError) as error:
            raise ArgumentError(f"SOURCE_DATE_EPOCH is {text!r}. Set it to seconds since 1970.") from error
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
