"""Reading the output of exports."""

from __future__ import annotations

from pathlib import Path

from optimum_htp.metadata import ExportMetadata
from optimum_htp.onnxfile import read_metadata


def record_of(path: Path) -> ExportMetadata:
    record = ExportMetadata.from_properties(read_metadata(path))
    assert record is not None
    return record


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
