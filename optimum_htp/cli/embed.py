"""`optimum-cli htp embed FILE...` and `unembed`: embed config and preprocessors into files, and remove them."""

from __future__ import annotations

import dataclasses
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from typing import Any

from optimum_htp.cli.display import show
from optimum_htp.cli.files import FileResult, FilesCommand
from optimum_htp.cli.folding import sizes
from optimum_htp.cli.options import add_external_data_argument, add_hub_arguments, hub_access
from optimum_htp.cli.parser import path

__all__ = ["EmbedCommand", "UnembedCommand"]


class EmbedCommand(FilesCommand):
    """Embeds the files of each model once per model."""

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
            type=path,
            metavar="FOLDER",
            help="Folder of the files to embed (default: the recorded commit, or the folder of a local model).",
        )
        add_external_data_argument(parser)
        add_hub_arguments(parser)

    def prepare(self, files: Sequence[str]) -> Callable[[str], Any]:
        """Return the function that embeds the files of a model."""
        from optimum_htp.stamping.embed import embed_files, once_a_model

        access, moved = hub_access(self.args), self.args.external_data
        return once_a_model(lambda file: embed_files(file, self.args.source, access=access, external_data=moved))

    def show(self, outcome: FileResult, *, several: bool) -> None:
        """Print how many files were embedded."""
        show(f"{outcome.file}: {sizes(outcome.value)} embedded")

    def document(self, outcome: FileResult) -> dict[str, Any]:
        """Return the embedded files, for JSON."""
        return {"embedded_files": [dataclasses.asdict(file) for file in outcome.value]}


class UnembedCommand(FilesCommand):
    """Removes the embedded files of each model, and extracts them to a folder."""

    examples = (
        "htp unembed out/model.onnx",
        "htp unembed out/*.onnx -o files/",
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments."""
        FilesCommand.parse_args(parser)
        parser.add_argument(
            "-o",
            "--output",
            type=path,
            metavar="FOLDER",
            help="Folder to extract the files to (default: the files are removed only).",
        )

    def prepare(self, files: Sequence[str]) -> Callable[[str], Any]:
        """Return the function that removes the embedded files of a model."""
        from optimum_htp.stamping.embed import once_a_model, unembed_files

        return once_a_model(lambda file: unembed_files(file, self.args.output))

    def show(self, outcome: FileResult, *, several: bool) -> None:
        """Print how many files were removed."""
        where = f", extracted to {self.args.output}" if self.args.output is not None and outcome.value else ""
        show(f"{outcome.file}: {sizes(outcome.value)} removed{where}")

    def document(self, outcome: FileResult) -> dict[str, Any]:
        """Return the removed files, for JSON."""
        return {"taken_out": [dataclasses.asdict(file) for file in outcome.value]}
