"""The report as plain data. `schema/report.schema.json` is its schema, version 1."""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from optimum_htp.hierarchy.assign import Assignment
from optimum_htp.hierarchy.summary import summarize
from optimum_htp.hierarchy.tags import coverage_of, known_assignment
from optimum_htp.metadata import ExportMetadata
from optimum_htp.onnxfile import Graph
from optimum_htp.onnxfile.external import external_files_of, is_contained
from optimum_htp.onnxfile.graph import graph_of
from optimum_htp.onnxfile.reader import header_of, opened

__all__ = ["REPORT_VERSION", "report_document"]

REPORT_VERSION: Final = 1


class Timed(Protocol):
    """A timed run of a file: the graph that ran, the modules of its nodes, and microseconds by node index."""

    @property
    def graph(self) -> Graph: ...
    @property
    def assignment(self) -> Assignment: ...
    @property
    def microseconds(self) -> Mapping[int, float]: ...


def report_document(
    files: Sequence[str | os.PathLike[str]], profiles: Mapping[str, Timed] | None = None
) -> dict[str, Any]:
    """Return the report of the files of a model.

    Args:
        files: The ONNX files.
        profiles: The timed runs, by path. A timed file is reported with the graph that ran.

    Raises:
        OnnxFileNotFoundError, InvalidOnnxFileError: A path is not an ONNX model.
        MetadataError: A file has no tags.
    """
    return {
        "report_version": REPORT_VERSION,
        "files": [_file(Path(path), (profiles or {}).get(os.fspath(path))) for path in files],
    }


def _file(path: Path, profile: Timed | None) -> dict[str, Any]:
    with opened(path, chunk=1 << 16) as window:
        header, external, size = header_of(window), external_files_of(window), window.size
        graph = profile.graph if profile is not None else graph_of(window)
    assignment = profile.assignment if profile is not None else known_assignment(path, header, graph)
    microseconds = profile.microseconds if profile is not None else None
    record = ExportMetadata.from_properties(header.metadata)
    return {
        "file": path.name,
        "bytes": size,
        "external_files": [
            {"file": name, "bytes": length} for name in external if (length := _size_inside(path, name)) is not None
        ],
        "context": {
            "record": None if record is None else dataclasses.asdict(record),
            "producer": f"{header.producer_name} {header.producer_version}".strip(),
            "ir_version": header.ir_version,
            "opsets": header.opsets,
        },
        "model": {
            "graph": graph.name,
            "inputs": [dataclasses.asdict(spec) for spec in graph.inputs],
            "outputs": [dataclasses.asdict(spec) for spec in graph.outputs],
            "nodes": len(graph.nodes),
            "initializers": len(graph.initializers),
        },
        "coverage": coverage_of(header),
        "timed": microseconds is not None,
        "modules": [
            {**module.as_dict(), "tag": assignment.tree.tag(module.name)}
            for module in summarize(graph, assignment, microseconds).values()
        ],
        "nodes": [
            {
                "name": node.name,
                "op_type": node.op_type,
                "domain": node.domain,
                "module": module,
                **({"microseconds": microseconds.get(index, 0.0)} if microseconds is not None else {}),
            }
            for index, (node, module) in enumerate(zip(graph.nodes, assignment.modules, strict=True))
        ],
    }


def _size_inside(path: Path, name: str) -> int | None:
    """Return the size in bytes of an external data file, or None if it is not in the ONNX file's folder.

    Other folders are not read, because a malicious file could name any path. In the Hub cache, the ONNX file and its
    data are symlinks; then the folder of the link targets counts too.
    """
    if not is_contained(name):
        return None
    try:
        data = (path.parent / name).resolve(strict=True)
        if not (data.is_relative_to(path.parent.resolve()) or data.parent == path.resolve().parent):
            return None
        found = data.stat()
    except (OSError, ValueError, RuntimeError):  # missing file, invalid name, symlink loop
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None
