"""`optimum-cli htp tag FILE...`: write into nodes which module of the PyTorch model they came from."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from typing import Any

from optimum_htp.cli.display import show
from optimum_htp.cli.files import FileResult, FilesCommand, add_external_data_argument, add_hub_arguments, hub_access

__all__ = ["TagCommand"]


class TagCommand(FilesCommand):
    """Tags files that lost their tags on the way, or were exported by something else."""

    examples = (
        "htp tag model.onnx --model org/model",
        "htp tag quantized.onnx --from out/model.onnx",
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments."""
        FilesCommand.parse_args(parser)
        parser.add_argument("--from", dest="original", metavar="ORIGINAL", help="The file that they were made from.")
        parser.add_argument(
            "-m", "--model", help="The model that they are exports of (ID or ID@REVISION, or a folder)."
        )
        parser.add_argument("--revision", help="Branch, tag, commit or refs/pr/N of the model.")
        parser.add_argument("--trust-remote-code", action="store_true", help="Let code of the model's repo run.")
        parser.add_argument("-o", "--output", help="Where to write instead of in place; one file only.")
        add_external_data_argument(parser)
        parser.add_argument(
            "--force",
            action="store_true",
            help="Tag files that do not fit the model or ORIGINAL, and replace tags that are more exact.",
        )
        parser.add_argument("--dry-run", action="store_true", help="Say what would be written, and write nothing.")
        add_hub_arguments(parser)

    def prepare(self, files: Sequence[str]) -> Callable[[str], Any]:
        """Set up what finds the modules."""
        from optimum_htp.errors import ArgumentError
        from optimum_htp.onnxfile.outputs import ONNX, check_output
        from optimum_htp.stamping.tag import Tagger

        if self.args.output is not None and len(files) > 1:
            raise ArgumentError(f"--output names one file, and there are {len(files)}: leave it out.")
        if self.args.output is not None and not self.args.dry_run:
            check_output(self.args.output, ONNX, inputs=filter(None, (self.args.original, self.args.model)))
        tagger = Tagger(
            self.args.original,
            self.args.model,
            revision=self.args.revision,
            access=hub_access(self.args),
            trust_remote_code=self.args.trust_remote_code,
            force=self.args.force,
            on_building=lambda model: show(f"Building {model} in PyTorch, without weights ...", sys.stderr),
        )
        if self.args.dry_run:
            return tagger.assignment
        return lambda file: tagger.write(file, self.args.output, external_data=self.args.external_data)

    def show(self, outcome: FileResult, *, several: bool) -> None:
        """Print how many nodes each rule found."""
        would = "would be " if self.args.dry_run else ""
        counted = ", ".join(f"{rule} {count}" for rule, count in outcome.value.coverage.items())
        nodes, modules = len(outcome.value.modules), len(set(outcome.value.modules))
        show(f"{outcome.file}: {nodes} nodes of {modules} modules {would}tagged ({counted})")
        if inexact := outcome.value.inexact:
            show(f"  {inexact} of them have a module around the one that they came from, which is not known")
        if not any(outcome.value.tree.classes.values()):
            show("  the classes are not known: name the model with --model to have them")

    def document(self, outcome: FileResult) -> dict[str, Any]:
        """Return how many nodes each rule found, for JSON."""
        assignment = outcome.value
        return {
            "written": not self.args.dry_run,
            "nodes": len(assignment.modules),
            "modules": len(set(assignment.modules)),
            "coverage": assignment.coverage,
            "inexact": assignment.inexact,
        }
