"""`optimum-cli htp mirror MODEL... --to URL`: put the files of commits where machines without the Hub read them."""

from __future__ import annotations

import dataclasses
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from typing import Any

from optimum_htp.cli.display import show
from optimum_htp.cli.files import FileResult, FilesCommand, add_hub_arguments, hub_access

__all__ = ["MirrorCommand"]


class MirrorCommand(FilesCommand):
    """Fills a mirror, commit by commit; what is there already is left alone."""

    examples = (
        "htp mirror out/model.onnx --to s3://bucket/models",
        "htp mirror out/ --to /mnt/models",
    )

    takes_urls = True

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments."""
        FilesCommand.parse_args(parser)
        models = next(action for action in parser._actions if action.dest == "files")
        models.metavar, models.help = "MODEL", "Models of a Hub (ID or ID@REVISION), or ONNX files made from them."
        parser.add_argument(
            "--to",
            required=True,
            metavar="URL",
            help="The mirror: a folder, s3://bucket/prefix, or whatever fsspec opens.",
        )
        parser.add_argument("--weights", action="store_true", help="Also the weights: exporting needs them.")
        add_hub_arguments(parser)

    def prepare(self, files: Sequence[str]) -> Callable[[str], Any]:
        """Return what mirrors a model."""
        from optimum_htp.extras.mirror.filling import mirror_model

        access = hub_access(self.args)
        return lambda model: mirror_model(model, self.args.to, access, weights=self.args.weights)

    def show(self, outcome: FileResult, *, several: bool) -> None:
        """Print what was put there."""
        found = outcome.value
        show(
            f"{found.reference} at {found.commit[:8]}: {len(found.files)} files are on the mirror, "
            f"{len(found.added)} of them new ({found.size:,} bytes)"
        )

    def document(self, outcome: FileResult) -> dict[str, Any]:
        """Return what was put there, for JSON."""
        return dataclasses.asdict(outcome.value)
