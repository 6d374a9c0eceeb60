"""Writes record and tags into all files of a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from optimum_htp.errors import VerificationError
from optimum_htp.export.subject import ExportSubject
from optimum_htp.hierarchy.capture import ExportedParts
from optimum_htp.hierarchy.tags import TagWriter
from optimum_htp.masking import get_logger
from optimum_htp.metadata import ExportMetadata
from optimum_htp.origin.source import HubSource
from optimum_htp.resolve.embedding import Embedding
from optimum_htp.stamping.embed import with_embedded
from optimum_htp.stamping.stamp import export_id, plugin_properties, stamp

__all__ = ["stamp_all", "tags_of"]

logger = get_logger(__name__)


def stamp_all(
    staged: Path,
    names: Sequence[str],
    record: ExportMetadata,
    subject: ExportSubject,
    tags: Mapping[str, TagWriter],
    embedding: Embedding | None,
) -> ExportMetadata:
    """Write record and tags into the files of a model; return the record of the first file.

    Args:
        staged: The folder of the files.
        names: Names of the files.
        record: The facts about the model.
        subject: The model.
        tags: Tags of the nodes of each file, by file name.
        embedding: The files to embed into the first file.
    """
    source = subject.checkpoint.source if subject.checkpoint is not None else None
    info = source.info if isinstance(source, HubSource) and record.model_type == "hub" else None
    extra = plugin_properties(record, info)
    if len(names) > 1:
        record = dataclasses.replace(record, onnx_files=tuple(names), export_id=export_id(staged, names))
    written = []
    for name in names:
        own = with_embedded(dataclasses.replace(record, onnx_file=name) if record.onnx_files else record, embedding)
        written.append(
            stamp(
                staged / name,
                own,
                author=info.author if info is not None else None,
                extra=extra,
                tags=tags.get(name),
                archive=embedding.archive if embedding is not None and own.embedded_in is None else None,
                external_data=None,
                is_export=True,
            )
        )
    return written[0]


def tags_of(staged: Path, names: Mapping[str, str], parts: ExportedParts, *, strict: bool) -> dict[str, TagWriter]:
    """Return the tags of each file, by its name. `names` contains the name under which Optimum wrote it.

    A file that cannot be tagged is a warning only, unless `strict`.

    Raises:
        VerificationError: A file cannot be tagged, and `strict` is set.
    """
    tags = {}
    for name, written in names.items():
        try:
            assignment = parts.assignment(written, staged / name)
            writer = TagWriter(assignment) if assignment is not None else None
        except Exception as error:
            step = (
                "reading the modules from PyTorch's export"
                if error in parts.faults.values()
                else "following its passes"
            )
            fault = f"{name} cannot be tagged: {step} failed ({type(error).__name__}: {error})."
            if strict:
                raise VerificationError(f"{fault} Leave out --verify-hub, or pass --no-hierarchy.") from error
            logger.warning("%s The file has no tags; try `optimum-cli htp tag`.", fault)
            logger.debug("Tagging %s failed", name, exc_info=error)
            continue
        if assignment is None or writer is None:
            logger.warning("%s has no tags, because its export by PyTorch was not observed.", name)
            continue
        tags[name] = writer
        if unplaced := assignment.inexact:
            logger.warning(
                "The modules of %d of %d nodes of %s are not exact; htp.coverage shows how each was found.",
                unplaced,
                len(assignment.modules),
                name,
            )
    return tags
