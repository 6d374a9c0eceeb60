"""Record and tags, written into all files of a model."""

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
from optimum_htp.stamping.new_record import export_id, plugin_properties
from optimum_htp.stamping.stamp import stamp

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
    """Write record and tags into the files of a model; return the record of the first.

    Args:
        staged: Their folder.
        names: The files.
        record: What is known of the model.
        subject: The model.
        tags: Of the nodes of each file, by its name.
        embedding: What the first file carries.
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
    """Return the tags of each file, by its name; `names` has the one under which Optimum wrote it.

    Tags are an extra: a file that cannot be tagged is worth a warning, unless everything is to be as it is promised.

    Raises:
        VerificationError: A file cannot be tagged, and that is `strict`ly forbidden.
    """
    tags = {}
    for name, written in names.items():
        try:
            assignment = parts.assignment(written, staged / name)
            writer = TagWriter(assignment) if assignment is not None else None
        except Exception as error:
            step = (
                "noting its modules in PyTorch's export" if error in parts.faults.values() else "following its passes"
            )
            fault = f"{name} cannot be tagged: {step} failed ({type(error).__name__}: {error})."
            if strict:
                raise VerificationError(f"{fault} Leave out --verify-hub, or give --no-hierarchy.") from error
            logger.warning("%s It gets no tags; try `optimum-cli htp tag` on it.", fault)
            logger.debug("The fault in tagging %s", name, exc_info=error)
            continue
        if assignment is None or writer is None:
            logger.warning("%s has no tags: its export by PyTorch was not seen.", name)
            continue
        tags[name] = writer
        if unplaced := assignment.inexact:
            logger.warning(
                "%d of %d nodes of %s could not be placed exactly: htp.coverage says how each was.",
                unplaced,
                len(assignment.modules),
                name,
            )
    return tags
