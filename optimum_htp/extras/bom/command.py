"""`optimum-cli htp bom FILE... -o bom.cdx.json`: write a CycloneDX bill of materials of ONNX files."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from optimum_htp.cli.base import Command
from optimum_htp.cli.display import show, show_json
from optimum_htp.cli.files import expand, is_manifest
from optimum_htp.cli.options import add_force_argument, add_json_argument

__all__ = ["BomCommand"]


class BomCommand(Command):
    """Writes one bill of materials of all files."""

    examples = (
        "htp bom out/ -o bom.cdx.json",
        "htp bom out/model.onnx",
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument(
            "files", nargs="+", metavar="FILE", help="ONNX files, folders of them, globs, or manifests of batches."
        )
        parser.add_argument("-o", "--output", metavar="FILE", help="File to write (default: standard output).")
        add_force_argument(parser)
        add_json_argument(parser)

    def execute(self) -> None:
        """Write the bill, and print its path."""
        from optimum_htp.cli.display import bar
        from optimum_htp.errors import ReportError
        from optimum_htp.extras.bom.bill import BILL, bill_of_materials
        from optimum_htp.onnxfile.outputs import check_output, write_document
        from optimum_htp.parsing import parse_json
        from optimum_htp.stamping.manifests import read_manifest

        files = []
        for argument in self.args.files:
            if is_manifest(argument):
                files += [str(path) for path in read_manifest(Path(argument)).files() if path.suffix == ".onnx"]
            else:
                files += expand([argument])
        files = list(dict.fromkeys(files))
        target = Path(self.args.output) if self.args.output is not None else None
        inputs = [*files, *filter(is_manifest, self.args.files)]
        if target is not None:
            check_output(target, BILL, inputs=inputs, force=self.args.force)
        with bar("Digests", "B", hidden=False) as update:

            def progress(done: int, total: int) -> None:
                self.stop.check()
                update(done, total)

            text = bill_of_materials(files, progress=progress)
        if target is None:
            show_json(parse_json(text))
            return
        try:
            write_document(text.encode(), target, BILL, inputs=inputs, force=self.args.force)
        except OSError as error:
            raise ReportError(f"{target} cannot be written: {error.strerror or error}.") from error
        if self.args.json:
            show_json({"output": str(target), "files": files})
        else:
            show(str(target))
