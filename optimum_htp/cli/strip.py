"""`optimum-cli htp strip FILE...`: remove our metadata, or the stack traces of PyTorch's exporter."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from optimum_htp.cli.display import show
from optimum_htp.cli.files import FileResult, FilesCommand
from optimum_htp.cli.parser import path

__all__ = ["StripCommand"]


class StripCommand(FilesCommand):
    """Removes our metadata keys from files and nodes, or the stack traces from nodes."""

    examples = (
        "htp strip out/model.onnx -o plain.onnx",
        "htp strip out/*.onnx",
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments."""
        FilesCommand.parse_args(parser)
        parser.add_argument(
            "-o",
            "--output",
            type=path,
            metavar="PATH",
            help="File or folder to write to (default: change the files in place); for several files a folder.",
        )
        parser.add_argument(
            "--stack-traces",
            action="store_true",
            help="Remove the stack traces of PyTorch's dynamo exporter from the nodes, instead of our keys. They "
            "contain paths of the machine that exported the file.",
        )

    def prepare(self, files: Sequence[str]) -> Callable[[str], Any]:
        """Return the function that strips a file."""
        from optimum_htp.errors import OnnxWriteError
        from optimum_htp.onnxfile.outputs import ONNX, check_output
        from optimum_htp.stamping.originals import strip_metadata, strip_stack_traces

        output: Path | None = self.args.output
        into = output is not None and (len(files) > 1 or output.is_dir() or output.suffix != ".onnx")
        names = [Path(file).name for file in files]
        if into and len(set(names)) < len(names):
            raise OnnxWriteError(
                f"Several files have the same name, so {output} cannot contain all. Strip them one by one."
            )
        if output is not None and into:
            try:
                output.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OnnxWriteError(
                    f"{output} cannot be created: {error.strerror or error}. Pass another folder with -o."
                ) from error

        def target_of(file: str) -> Path | None:
            return output / Path(file).name if output is not None and into else output

        for file in files:
            if (target := target_of(file)) is not None:
                check_output(target, ONNX, inputs=[other for other in files if other != file])

        remove = strip_stack_traces if self.args.stack_traces else strip_metadata

        def work(file: str) -> Any:
            return remove(file, target_of(file))

        return work

    def show(self, outcome: FileResult, *, several: bool) -> None:
        """Print how much was removed."""
        show(f"{outcome.file}: {outcome.value} {'stack traces' if self.args.stack_traces else 'keys'} removed")

    def document(self, outcome: FileResult) -> dict[str, Any]:
        """Return how much was removed, for JSON."""
        return {"removed": outcome.value}
