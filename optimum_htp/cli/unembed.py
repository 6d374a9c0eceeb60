"""`optimum-cli htp unembed FILE...`: take out what travels in files."""

from __future__ import annotations

import dataclasses
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from optimum_htp.cli.display import show
from optimum_htp.cli.files import FilesCommand, Outcome
from optimum_htp.cli.folding import sizes

__all__ = ["UnembedCommand"]


class UnembedCommand(FilesCommand):
    """Removes what is embedded in the files of each model, and writes it out where that is wanted."""

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments."""
        FilesCommand.parse_args(parser)
        parser.add_argument("--to", dest="target", type=Path, metavar="FOLDER", help="Write the files there first.")

    def prepare(self, files: Sequence[str]) -> Callable[[str], Any]:
        """Return what takes the embedded files out of a file's model."""
        from optimum_htp.stamping.embed import once_a_model, unembed_files

        return once_a_model(lambda file: unembed_files(file, self.args.target))

    def show(self, outcome: Outcome, *, several: bool) -> None:
        """Print what was taken out."""
        where = f", written to {self.args.target}" if self.args.target is not None and outcome.value else ""
        show(f"{outcome.file}: {sizes(outcome.value)} taken out{where}")

    def document(self, outcome: Outcome) -> dict[str, Any]:
        """Return what was taken out, for JSON."""
        return {"taken_out": [dataclasses.asdict(file) for file in outcome.value]}
