"""`optimum-cli htp report FILE... -o REPORT`: provenance and module tree as JSON, Markdown or HTML."""

from __future__ import annotations

from argparse import ArgumentParser

from optimum_htp.cli.base import Command
from optimum_htp.cli.display import show
from optimum_htp.cli.files import add_force_argument, expand

__all__ = ["ReportCommand"]


class ReportCommand(Command):
    """Writes one report of the files of a model."""

    examples = (
        "htp report out/model.onnx -o report.html",
        "htp report out/ -o report.json",
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("files", nargs="+", metavar="FILE", help="Tagged ONNX files, folders of them, or globs.")
        parser.add_argument("-o", "--output", required=True, help="The report: a name in .json, .md or .html.")
        add_force_argument(parser)

    def execute(self) -> None:
        """Write the report, and say where."""
        from optimum_htp.report.document import report_document
        from optimum_htp.report.write import check_report_path, write_report

        files = expand(self.args.files)
        check_report_path(self.args.output, files, force=self.args.force)
        show(str(write_report(report_document(files), self.args.output, files, force=self.args.force)))
