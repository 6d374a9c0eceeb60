"""`optimum-cli htp endpoint FILE [-o FOLDER]`: writes the files of a Hugging Face Inference Endpoint."""

from __future__ import annotations

from argparse import ArgumentParser

from optimum_htp.cli.base import Command
from optimum_htp.cli.display import amount, show, show_json
from optimum_htp.cli.options import add_hub_arguments, add_json_argument, hub_access

__all__ = ["EndpointCommand"]


class EndpointCommand(Command):
    """Writes a handler, pinned requirements, and the configs of the model."""

    examples = (
        "htp endpoint out/ -o endpoint/",
        "htp endpoint out/model.onnx -o endpoint/ --full",
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument(
            "file", metavar="FILE", help="An ONNX file with a record, or the folder of a model's files."
        )
        parser.add_argument(
            "-o", "--output", metavar="FOLDER", help="Folder to write to (default: the folder of the model)."
        )
        kinds = parser.add_mutually_exclusive_group()
        kinds.add_argument(
            "--light",
            action="store_true",
            default=None,
            help="Serve without PyTorch and transformers; fail if this is not possible (default: if possible).",
        )
        kinds.add_argument("--full", dest="light", action="store_false", help="Serve with Optimum and transformers.")
        add_json_argument(parser)
        add_hub_arguments(parser)

    def execute(self) -> None:
        """Write the folder and print its files."""
        from optimum_htp.extras.endpoint.folder import write_endpoint

        made = write_endpoint(self.args.file, self.args.output, hub_access(self.args), is_light=self.args.light)
        if self.args.json:
            document = {"folder": str(made.folder), "task": made.task, "files": list(made.files)}
            show_json({**document, "light": made.reason is None})
            return
        how = "without PyTorch" if made.reason is None else f"with PyTorch ({made.reason})"
        show(f"{made.folder} serves {made.task} {how}; {amount(len(made.files), 'file')} written:")
        for name in made.files:
            show(f"  {name}")
