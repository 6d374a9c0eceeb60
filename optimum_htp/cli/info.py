"""`optimum-cli htp info FILE`: where an ONNX file came from, and what is in its graph."""

from __future__ import annotations

import dataclasses
import functools
import logging
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from optimum.commands.base import CommandInfo

from optimum_htp.cli.batch import BatchCommand, Outcome, printable

if TYPE_CHECKING:
    from optimum_htp.hierarchy.summary import ModuleSummary
    from optimum_htp.metadata import ExportMetadata
    from optimum_htp.onnxfile import Graph, ModelHeader

__all__ = ["InfoCommand"]

logger = logging.getLogger(__name__)


class InfoCommand(BatchCommand):
    """Prints the record of files, a summary of their graph, and with --show-metadata every property as it is."""

    COMMAND = CommandInfo(name="info", help="Show which model ONNX files came from; also of a file on a Hub (hf://).")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments."""
        BatchCommand.parse_args(parser)
        parser.add_argument("--tree", action="store_true", help="Show the modules, with nodes, parameters and bytes.")
        parser.add_argument("--depth", type=int, help="Levels of modules that --tree shows.")
        parser.add_argument("--show-metadata", action="store_true", help="Show every metadata property as it is.")

    def prepare(self, files: Sequence[str]) -> Callable[[str], Any]:
        """Return the reader of a file; one that shows everything goes on where the record is bad."""
        return functools.partial(_read, lenient=self.args.show_metadata)

    def show(self, outcome: Outcome, *, several: bool) -> None:
        """Print a file's record."""
        from optimum_htp.hierarchy.outline import outline

        header, record, graph, external = outcome.value
        if several:
            print(f"== {outcome.file}")
        for name, value in _summary(header, record, graph, external).items():
            print(f"{name:<15} {printable(value)}")
        if self.args.tree:
            print()
            for line in outline(_modules(outcome.file, header, graph), depth=self.args.depth):
                print(printable(line))
        if self.args.show_metadata:
            print()
            for key, value in header.metadata.items():
                print(f"{printable(key)} = {printable(value)}")
        if several:
            print()

    def document(self, outcome: Outcome) -> dict[str, Any]:
        """Return a file's record for JSON."""
        header, record, graph, external = outcome.value
        summary: dict[str, Any] | None = None
        if graph is not None:
            summary = {
                "name": graph.name,
                "inputs": [dataclasses.asdict(spec) for spec in graph.inputs],
                "outputs": [dataclasses.asdict(spec) for spec in graph.outputs],
                "nodes": len(graph.nodes),
                "initializers": len(graph.initializers),
                "external_files": list(external),
            }
        tree = {}
        if self.args.tree:
            modules = _modules(outcome.file, header, graph)
            tree = {"modules": [one.as_dict() for one in modules.values()]}
        return {
            **tree,
            "record": None if record is None else dataclasses.asdict(record),
            "header": dataclasses.asdict(header),
            "graph": summary,
        }


def _modules(file: str, header: ModelHeader, graph: Graph | None) -> dict[str, ModuleSummary]:
    from optimum_htp.errors import MetadataError
    from optimum_htp.hierarchy.summary import summarize
    from optimum_htp.hierarchy.tags import tagged_assignment

    if graph is None:
        raise MetadataError(f"{file} is not here: download it to see its modules.")
    assignment = tagged_assignment(header, graph)
    if assignment is None:
        raise MetadataError(f"{file} has no tags. Add them first: `optimum-cli htp tag {file}`.")
    return summarize(graph, assignment)


def _read(file: str, *, lenient: bool) -> tuple[ModelHeader, ExportMetadata | None, Graph | None, tuple[str, ...]]:
    from optimum_htp.errors import MetadataError
    from optimum_htp.metadata import ExportMetadata
    from optimum_htp.onnxfile import external_files, read_graph, read_header
    from optimum_htp.remote import is_url, read_remote_header

    remote = is_url(file)
    header = read_remote_header(file) if remote else read_header(file)
    record = None
    try:
        record = ExportMetadata.from_properties(header.metadata)
    except MetadataError as error:
        if not lenient:
            raise
        logger.warning("%s: %s", file, error)
    if remote:
        return header, record, None, ()
    return header, record, read_graph(file), external_files(file)


def _summary(
    header: ModelHeader, record: ExportMetadata | None, graph: Graph | None, external: tuple[str, ...]
) -> dict[str, str]:
    known: dict[str, str | None] = {"model": "unknown: the file has no record of where it came from"}
    if record is not None:
        known = {
            "model": record.hub_id or "local",
            "commit": record.hub_sha or record.hub_revision,
            "revision": record.hub_ref,
            "task": record.task,
            "class": record.model_class,
            "library": record.export_library,
            "preprocessors": ", ".join(record.preprocessors),
            "license": record.license,
            "base model": record.base_model,
            "files": ", ".join(record.onnx_files),
            "exported": f"{record.export_timestamp or '?'} by optimum-htp {record.export_version or '?'}",
        }
    known |= {
        "producer": f"{header.producer_name} {header.producer_version}".strip(),
        "ir version": str(header.ir_version),
        "opset": ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in header.opsets.items()),
    }
    if graph is not None:
        known |= {
            "inputs": ", ".join(map(str, graph.inputs)),
            "outputs": ", ".join(map(str, graph.outputs)),
            "graph": f"{len(graph.nodes)} nodes, {len(graph.initializers)} initializers",
            "external data": ", ".join(external),
        }
    return {name: value for name, value in known.items() if value}
