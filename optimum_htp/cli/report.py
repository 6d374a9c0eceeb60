"""`optimum-cli htp report FILE... -o REPORT`: provenance and module tree as JSON, Markdown or HTML."""

from __future__ import annotations

from argparse import ArgumentParser

from optimum_htp.cli.base import Command
from optimum_htp.cli.display import show, show_json
from optimum_htp.cli.files import expand
from optimum_htp.cli.options import add_force_argument, add_json_argument

__all__ = ["ReportCommand"]


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
