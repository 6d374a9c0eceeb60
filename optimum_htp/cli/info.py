"""The commands that show what ONNX files contain: `info` prints it, and `report` writes a report."""

from __future__ import annotations

import dataclasses
import functools
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.cli.base import Command
from optimum_htp.cli.display import amount, cut, folded, show, show_json, wrapped
from optimum_htp.cli.files import FileResult, FilesCommand, expand
from optimum_htp.cli.options import add_force_argument, add_json_argument
from optimum_htp.cli.parser import integer

if TYPE_CHECKING:
    from optimum_htp.errors import MetadataError
    from optimum_htp.hierarchy.summary import ModuleSummary
    from optimum_htp.metadata import ExportMetadata
    from optimum_htp.onnxfile import Graph, ModelHeader

__all__ = ["InfoCommand", "ReportCommand"]

_COLUMN: Final = 15  # width of a label


class InfoCommand(FilesCommand):
    """Prints the record of files, a summary of their graph, and with --show-metadata every metadata property."""

    examples = (
        "htp info out/model.onnx --tree --depth 2",
        "htp info hf://org/repo/onnx/model.onnx --json",
    )

    takes_urls = True

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments."""
        FilesCommand.parse_args(parser)
        parser.add_argument("--tree", action="store_true", help="Show the modules with nodes, parameters and bytes.")
        parser.add_argument("--depth", type=integer(1), metavar="N", help="Number of module levels to show.")
        parser.add_argument("--all", action="store_true", help="Show each input and output, also past key values.")
        parser.add_argument("--show-metadata", action="store_true", help="Show every metadata property unchanged.")

    def prepare(self, files: Sequence[str]) -> Callable[[str], Any]:
        """Return the function that reads a file; with --show-metadata an invalid record is no error."""
        return functools.partial(_read, lenient=self.args.show_metadata, tree=self.args.tree)

    def show(self, outcome: FileResult, *, several: bool) -> None:
        """Print a file's record."""
        from optimum_htp.report.outline import outline

        reading: _Reading = outcome.value
        if reading.problem is not None:
            show(f"{outcome.file}: {reading.problem}", sys.stderr)
        if several:
            show(f"== {outcome.file}")
        for name, values in _summary(reading, every=self.args.all).items():
            for at, line in enumerate(wrapped(values, _COLUMN + 1)):
                show(f"{'' if at else name:<{_COLUMN}} {line}")
        if reading.modules is not None:
            show()
            for line in outline(reading.modules, depth=self.args.depth):
                show(cut(line))
        if self.args.show_metadata:
            show()
            for key, value in reading.header.metadata.items():
                show(f"{key} = {value}")
            for key, length in reading.header.archives.items():
                show(f"{key} = ({length} characters)")
        if several:
            show()

    def document(self, outcome: FileResult) -> dict[str, Any]:
        """Return a file's record for JSON."""
        reading: _Reading = outcome.value
        summary: dict[str, Any] | None = None
        if reading.graph is not None:
            summary = {
                "name": reading.graph.name,
                "inputs": [dataclasses.asdict(spec) for spec in reading.graph.inputs],
                "outputs": [dataclasses.asdict(spec) for spec in reading.graph.outputs],
                "nodes": len(reading.graph.nodes),
                "initializers": len(reading.graph.initializers),
                "external_files": list(reading.external),
            }
        modules = reading.modules
        return {
            **({} if modules is None else {"modules": [module.as_dict() for module in modules.values()]}),
            "record": None if reading.record is None else dataclasses.asdict(reading.record),
            "header": dataclasses.asdict(reading.header),
            "graph": summary,
        }


class ReportCommand(Command):
    """Writes one report about the files."""

    examples = (
        "htp report out/model.onnx -o report.html",
        "htp report out/ -o report.json",
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("files", nargs="+", metavar="FILE", help="Tagged ONNX files, folders of them, or globs.")
        parser.add_argument(
            "-o", "--output", metavar="FILE", required=True, help="Report to write: .json, .md or .html."
        )
        add_force_argument(parser)
        add_json_argument(parser)

    def execute(self) -> None:
        """Write the report, and print its path."""
        from optimum_htp.report.document import report_document
        from optimum_htp.report.write import check_report_path, write_report

        files = expand(self.args.files)
        check_report_path(self.args.output, files, force=self.args.force)
        path = write_report(report_document(files), self.args.output, files, force=self.args.force)
        if self.args.json:
            show_json({"output": str(path), "files": files})
        else:
            show(str(path))


@dataclass(frozen=True)
class _Reading:
    """Contents of a file; of a URL without the graph."""

    header: ModelHeader
    record: ExportMetadata | None
    problem: MetadataError | None
    graph: Graph | None = None
    external: tuple[str, ...] = ()
    modules: Mapping[str, ModuleSummary] | None = None


def _read(file: str, *, lenient: bool, tree: bool) -> _Reading:
    from optimum_htp.errors import MetadataError
    from optimum_htp.hierarchy.summary import summarize
    from optimum_htp.hierarchy.tags import known_assignment
    from optimum_htp.metadata import ExportMetadata
    from optimum_htp.onnxfile.external import external_files_of
    from optimum_htp.onnxfile.graph import graph_of
    from optimum_htp.onnxfile.reader import header_of, opened
    from optimum_htp.resolve.remote_file import is_url, read_remote_header

    graph: Graph | None = None
    external: tuple[str, ...] = ()
    if is_url(file):
        header = read_remote_header(file)
    else:
        with opened(file, chunk=1 << 16) as window:
            header, graph, external = header_of(window), graph_of(window), external_files_of(window)
    record = problem = None
    try:
        record = ExportMetadata.from_properties(header.metadata)
    except MetadataError as error:
        if not lenient:
            raise
        problem = error
    if graph is None:
        if tree:
            raise MetadataError(f"--tree does not read URLs. Download {file} first.")
        return _Reading(header, record, problem)
    modules = summarize(graph, known_assignment(file, header, graph)) if tree else None
    return _Reading(header, record, problem, graph, external, modules)


def _summary(reading: _Reading, *, every: bool) -> dict[str, Sequence[str]]:
    """Return the lines of a file for each label."""
    header, record, graph = reading.header, reading.record, reading.graph
    known: dict[str, str | None] = {"model": "unknown: the file has no record"}
    if record is not None:
        known = {
            "model": record.hub_id or "local",
            "hub": record.hub_provider,
            "commit": record.hub_sha or record.hub_revision,
            "revision": record.hub_ref,
            "module": record.submodule,
            "task": record.task,
            "class": record.model_class,
            "library": record.export_library,
            "unchecked": ", ".join(record.unchecked),
            "preprocessors": ", ".join(record.preprocessors),
            "license": record.license,
            "base model": record.base_model,
            "made from": record.base_models,
            "files": ", ".join(record.onnx_files),
            "exported": f"{record.export_timestamp or '?'} by optimum-htp {record.export_version or '?'}",
        }
    known |= {
        "producer": f"{header.producer_name} {header.producer_version}".strip(),
        "ir version": str(header.ir_version),
        "opset": ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in header.opsets.items()),
    }
    lines: dict[str, Sequence[str]] = {name: (value,) for name, value in known.items() if value}
    if record is not None and record.embedded_files:
        lines["embedded"] = _embedded(record)
    if graph is not None:
        lines |= {
            "inputs": list(map(str, graph.inputs)) if every else folded(graph.inputs),
            "outputs": list(map(str, graph.outputs)) if every else folded(graph.outputs),
            "graph": (f"{amount(len(graph.nodes), 'node')}, {amount(len(graph.initializers), 'initializer')}",),
            "external data": reading.external,
        }
    return lines


def _embedded(record: ExportMetadata) -> list[str]:
    """Return a line per embedded file, and the name of the file that contains them if it is another one."""
    from optimum_htp.report.outline import size_text

    where = [f"in {record.embedded_in}:"] if record.embedded_in is not None else []
    return [*where, *(f"{file.name} {size_text(file.size)}" for file in record.embedded_files)]
