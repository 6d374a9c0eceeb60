"""`optimum-cli htp tag FILE...`: tag nodes with their modules of the PyTorch model."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from typing import Any

from optimum_htp.cli.display import show, show_progress
from optimum_htp.cli.files import FileResult, FilesCommand
from optimum_htp.cli.options import (
    MODEL,
    REVISION,
    add_external_data_argument,
    add_hub_arguments,
    add_trust_remote_code_argument,
    hub_access,
)

__all__ = ["TagCommand"]


class TagCommand(FilesCommand):
    """Tags files that have lost their tags, or come from another exporter."""

    examples = (
        "htp tag model.onnx --model org/model",
        "htp tag quantized.onnx --from out/model.onnx",
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments."""
        FilesCommand.parse_args(parser)
        parser.add_argument("--from", dest="original", metavar="ORIGINAL", help="Tagged file that FILE was made from.")
        parser.add_argument("-m", "--model", help=MODEL)
        parser.add_argument("--revision", help=REVISION)
        add_trust_remote_code_argument(parser)
        parser.add_argument("-o", "--output", metavar="FILE", help="File to write (default: change FILE in place).")
        add_external_data_argument(parser)
        parser.add_argument(
            "--force",
            action="store_true",
            help="Tag files also if they do not match the model or ORIGINAL, and replace more exact tags.",
        )
        parser.add_argument("--dry-run", action="store_true", help="Show the changes without writing.")
        add_hub_arguments(parser)

    def prepare(self, files: Sequence[str]) -> Callable[[str], Any]:
        """Return the function that tags a file."""
        from optimum_htp.errors import ArgumentError
        from optimum_htp.onnxfile.outputs import ONNX, check_output
        from optimum_htp.stamping.tag import Tagger

        if self.args.output is not None and len(files) > 1:
            raise ArgumentError(f"--output is one file, not {len(files)}. Omit it to change the files in place.")
        if self.args.output is not None and not self.args.dry_run:
            check_output(self.args.output, ONNX, inputs=filter(None, (self.args.original, self.args.model)))
        tagger = Tagger(
            self.args.original,
            self.args.model,
            revision=self.args.revision,
            access=hub_access(self.args),
            trust_remote_code=self.args.trust_remote_code,
            force=self.args.force,
            on_building=lambda model: show_progress(f"Building {model} in PyTorch, without weights ..."),
        )
        if self.args.dry_run:
            return tagger.assignment
        return lambda file: tagger.write(file, self.args.output, external_data=self.args.external_data)

    def show(self, outcome: FileResult, *, several: bool) -> None:
        """Print the number of nodes per rule."""
        would = "would be " if self.args.dry_run else ""
        counted = ", ".join(f"{rule} {count}" for rule, count in outcome.value.coverage.items())
        nodes, modules = len(outcome.value.modules), len(set(outcome.value.modules))
        show(f"{outcome.file}: {nodes} nodes of {modules} modules {would}tagged ({counted})")
        if inexact := outcome.value.inexact:
            show(f"  {inexact} of them have the tag of an enclosing module, because their own module is unknown")
        if not any(outcome.value.tree.classes.values()):
            show("  the classes are unknown: pass --model to add them")

    def document(self, outcome: FileResult) -> dict[str, Any]:
        """Return the number of nodes per rule, for JSON."""
        assignment = outcome.value
        return {
            "written": not self.args.dry_run,
            "nodes": len(assignment.modules),
            "modules": len(set(assignment.modules)),
            "coverage": assignment.coverage,
            "inexact": assignment.inexact,
        }
