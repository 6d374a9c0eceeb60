"""`optimum-cli htp mirror MODEL... -o URL`: copy the files of commits to a mirror, for machines without the Hub."""

from __future__ import annotations

import dataclasses
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from typing import Any

from optimum_htp.cli.display import amount, show
from optimum_htp.cli.files import FileResult, FilesCommand
from optimum_htp.cli.options import add_hub_arguments, hub_access

__all__ = ["MirrorCommand"]


class MirrorCommand(FilesCommand):
    """Copies the files of commits to a mirror; existing files are skipped."""

    examples = (
        "htp mirror out/model.onnx -o s3://bucket/models",
        "htp mirror out/ -o /mnt/models",
    )

    takes_urls = True

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments."""
        FilesCommand.parse_args(parser)
        models = next(action for action in parser._actions if action.dest == "files")
        models.metavar, models.help = (
            "MODEL",
            "Models (NAME or ORG/NAME, optionally with @REVISION) or ONNX files.",
        )
        parser.add_argument(
            "-o",
            "--output",
            required=True,
            metavar="URL",
            help="Mirror to write to: a folder, s3://bucket/prefix, or another location of fsspec.",
        )
        parser.add_argument("--weights", action="store_true", help="Copy the weights, too; exports need them.")
        add_hub_arguments(parser)

    def prepare(self, files: Sequence[str]) -> Callable[[str], Any]:
        """Return the function that mirrors a model."""
        from optimum_htp.extras.mirror.filling import mirror_model

        access = hub_access(self.args)
        return lambda model: mirror_model(model, self.args.output, access, weights=self.args.weights)

    def show(self, outcome: FileResult, *, several: bool) -> None:
        """Print the number of files on the mirror."""
        found = outcome.value
        show(
            f"{found.reference}@{found.commit[:8]}: {amount(len(found.files), 'file')} on the mirror, "
            f"{len(found.added)} of them new ({found.size:,} bytes)"
        )

    def document(self, outcome: FileResult) -> dict[str, Any]:
        """Return the files on the mirror, for JSON."""
        return dataclasses.asdict(outcome.value)
