"""Writes record and tags into all files of a model, and checks the record with the Hub."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from optimum_htp import plugins
from optimum_htp.errors import OptimumHTPError, VerificationError
from optimum_htp.export.subject import ExportSubject
from optimum_htp.hierarchy.capture import ExportedParts
from optimum_htp.hierarchy.tags import TagWriter
from optimum_htp.hubs.base import HubAccess
from optimum_htp.libraries.names import CONFIG
from optimum_htp.libraries.repo_files import read_json
from optimum_htp.masking import get_logger
from optimum_htp.metadata import ExportMetadata, read_record
from optimum_htp.origin.source import LocalSource
from optimum_htp.resolve.commit_files import resolve_configs, resolve_preprocessors
from optimum_htp.resolve.config_fit import mismatch
from optimum_htp.resolve.configs import load_config
from optimum_htp.resolve.embedding import Embedding
from optimum_htp.stamping.embed import with_embedded
from optimum_htp.stamping.embedded_check import check_embedded
from optimum_htp.stamping.stamp import export_id, plugin_properties, stamp

__all__ = ["confirm_files", "require_confirmed", "stamp_all", "tags_of"]

logger = get_logger(__name__)


def stamp_all(
    staged: Path,
    names: Sequence[str],
    record: ExportMetadata,
    subject: ExportSubject,
    tags: Mapping[str, TagWriter],
    embedding: Embedding | None,
) -> ExportMetadata:
    """Write record, tags and embedded files into the files of a model; return the record of the first file.

    `tags` contains the tags of each file by its name. The first file contains the embedded files.
    """
    info = subject.info if record.model_type == "hub" else None
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


def require_confirmed(subject: ExportSubject) -> None:
    """Reject a local model, and a model whose origin no Hub has confirmed (`--verify-hub`)."""
    source = subject.checkpoint.source if subject.checkpoint is not None else LocalSource(None)
    if isinstance(source, LocalSource) or subject.derived_from is not None:
        because = f" ({subject.reason})" if subject.reason is not None else ""
        raise VerificationError(
            f"{subject.name} is a local model{because}, so no Hub can confirm it. Leave out --verify-hub."
        )
    if source.info is None:
        raise VerificationError(f"The Hub did not confirm {source.repo_id} at {source.commit}: {source.reason}")


def confirm_files(folder: Path, names: Sequence[str], record: ExportMetadata, access: HubAccess) -> None:
    """Read files back, and resolve their records as a loader with an empty cache does (`--verify-hub`).

    Raises:
        VerificationError: A file has another record, or the Hub has other contents.
    """
    online = dataclasses.replace(access, local_files_only=False, force_download=False)
    for name in names:
        written = read_record(folder / name)
        if written is None or (written.hub_id, written.hub_sha) != (record.hub_id, record.hub_sha):
            raise VerificationError(f"The record in {name} differs from the record that was written: {written}.")
    try:
        info = plugins.hub(record.hub_provider).info(str(record.hub_id), record.hub_sha, online)
        if (info.repo_id, info.commit) != (record.hub_id, record.hub_sha):
            raise VerificationError(
                f"The Hub returned {info.repo_id} at {info.commit} for {record.hub_id} at {record.hub_sha}."
            )
        proof = check_embedded(folder / names[0], record, online)
        if proof is not None and proof.fault is not None:
            raise VerificationError(
                f"The files of {record.source} in the cache differ from those on the Hub: {proof.fault} "
                "Export again with --force-download."
            )
        with tempfile.TemporaryDirectory() as cache:
            fresh = dataclasses.replace(online, cache_dir=cache)
            if record.export_library == "diffusers":
                resolve_preprocessors(record, fresh)
                return
            source = resolve_configs(record, fresh, with_code=False)
            reason = mismatch(read_json(source.folder / CONFIG) or {}, record, folder / names[0])
            if reason is not None:
                raise VerificationError(f"The config of {record.source} does not match {names[0]}: {reason}.")
            load_config(source, record, anew=True)
    except VerificationError:
        raise
    except OptimumHTPError as error:
        raise VerificationError(f"The Hub does not confirm {record.source}: {error}") from error
