"""Stamp the files that Optimum makes from a stamped file: optimized or quantized.

ORTOptimizer and ORTQuantizer write files with a suffix in their names and drop the record. The new file gets the
record of the old one. The parts of a model keep belonging to one model, under their new names.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path, PurePosixPath

from optimum_htp.errors import OptimumHTPError
from optimum_htp.masking import get_logger
from optimum_htp.metadata import EMBEDDED_ZIP, OWN_KEYS, ExportMetadata
from optimum_htp.onnxfile import ModelHeader, read_archive, read_header
from optimum_htp.onnxfile.unchanged import check_of, checked_before_replacing
from optimum_htp.stamping.originals import AUTHOR, original_of
from optimum_htp.stamping.stamp import stamp
from optimum_htp.stamping.tag import carried_tags

__all__ = ["carry_record", "suffixed"]

logger = get_logger(__name__)


def suffixed(name: str, suffix: str | None) -> str:
    """Return the name that ORTOptimizer and ORTQuantizer give to the file that they make from a file."""
    path = PurePosixPath(name)
    return path.with_name(f"{path.stem}_{suffix}{path.suffix}").as_posix() if suffix else name


def carry_record(source: Path, made: Path, suffix: str | None) -> ExportMetadata | None:
    """Stamp a file with the record of the file that it was made from, and return the record; None without one.

    `suffix` is that of the new file names. A failure is logged.
    """
    try:
        with checked_before_replacing(check_of(source)):  # The file is read several times.
            return _carry(source, made, suffix)
    except Exception as error:
        reason = error if isinstance(error, OptimumHTPError) else f"{type(error).__name__}: {error}"
        logger.warning("%s, made from %s, could not be stamped: %s", made, source, reason)
        logger.debug("The cause is:", exc_info=True)
        return None


def _carry(source: Path, made: Path, suffix: str | None) -> ExportMetadata | None:
    header = read_header(source)
    record = ExportMetadata.from_properties(header.metadata)
    if record is None:
        return None
    if record.onnx_files:
        names = tuple(suffixed(PurePosixPath(name).name, suffix) for name in record.onnx_files)
        digest = hashlib.sha256("\n".join((record.export_id or "", *names)).encode()).hexdigest()
        own = None if record.onnx_file is None else suffixed(PurePosixPath(record.onnx_file).name, suffix)
        holder = None if record.embedded_in is None else suffixed(PurePosixPath(record.embedded_in).name, suffix)
        record = dataclasses.replace(
            record, onnx_files=names, onnx_file=own, export_id=digest[:32], embedded_in=holder
        )
    archive = _archive(source, header)
    before, there = original_of(header), original_of(read_header(made)).metadata
    carried = {key: value for key, value in before.metadata.items() if key not in (there.keys() | OWN_KEYS)}
    author = header.metadata[AUTHOR] if AUTHOR in before.dropped else None
    tags = carried_tags(source, made)
    return stamp(made, record, author=author, extra=before.added, carried=carried, tags=tags, archive=archive)


def _archive(source: Path, header: ModelHeader) -> str | None:
    """Return the archive of embedded files as it is. Readers check it."""
    length = header.archives.get(EMBEDDED_ZIP)
    text = read_archive(source, EMBEDDED_ZIP, length) if length is not None else None
    return None if text is None else text.decode("ascii", "replace")
