"""`optimum-cli htp embed FILE...` and `unembed`: put config and preprocessors into files, and take them out."""

from __future__ import annotations

import dataclasses
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from optimum_htp.cli.display import show
from optimum_htp.cli.files import FileResult, FilesCommand, add_external_data_argument, add_hub_arguments, hub_access
from optimum_htp.cli.folding import sizes

__all__ = ["EmbedCommand", "UnembedCommand"]


class EmbedCommand(FilesCommand):
    """Embeds the files of each model, once for all files of one."""

    examples = (
        "htp embed out/model.onnx",
        "htp embed out/*.onnx --json",
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments."""
        FilesCommand.parse_args(parser)
        parser.add_argument(
            "--from",
            dest="source",
            type=Path,
            metavar="FOLDER",
            help="Where the files are, in place of the commit in the record (or of what is beside a local model).",
        )
        add_external_data_argument(parser)
        add_hub_arguments(parser)

    def prepare(self, files: Sequence[str]) -> Callable[[str], Any]:
        """Return what embeds the files of a file's model."""
        from optimum_htp.stamping.embed import embed_files, once_a_model

        access, moved = hub_access(self.args), self.args.external_data
        return once_a_model(lambda file: embed_files(file, self.args.source, access=access, external_data=moved))

    def show(self, outcome: FileResult, *, several: bool) -> None:
        """Print what was embedded."""
        show(f"{outcome.file}: {sizes(outcome.value)} embedded")

    def document(self, outcome: FileResult) -> dict[str, Any]:
        """Return what was embedded, for JSON."""
        return {"embedded_files": [dataclasses.asdict(file) for file in outcome.value]}


class UnembedCommand(FilesCommand):
    """Removes what is embedded in the files of each model, and writes it out where that is wanted."""

    examples = (
        "htp unembed out/model.onnx",
        "htp unembed out/*.onnx --json",
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments."""
        FilesCommand.parse_args(parser)
        parser.add_argument("--to", dest="target", type=Path, metavar="FOLDER", help="Write the files there first.")

    def prepare(self, files: Sequence[str]) -> Callable[[str], Any]:
        """Return what takes the embedded files out of a file's model."""
        from optimum_htp.stamping.embed import once_a_model, unembed_files

        return once_a_model(lambda file: unembed_files(file, self.args.target))

    def show(self, outcome: FileResult, *, several: bool) -> None:
        """Print what was taken out."""
        where = f", written to {self.args.target}" if self.args.target is not None and outcome.value else ""
        show(f"{outcome.file}: {sizes(outcome.value)} taken out{where}")

    def document(self, outcome: FileResult) -> dict[str, Any]:
        """Return what was taken out, for JSON."""
        return {"taken_out": [dataclasses.asdict(file) for file in outcome.value]}
