"""`optimum-cli export htp`: the options of `optimum-cli export onnx`, and ours."""

from __future__ import annotations

import dataclasses
import json
import sys
from argparse import ArgumentParser, ArgumentTypeError
from typing import Any, Final

from optimum.commands.base import CommandInfo

from optimum_htp.cli.base import Command
from optimum_htp.cli.options import (
    CACHE_DIR,
    MODEL,
    REVISION,
    add_destinations,
    add_embed_argument,
    add_force_argument,
    add_hub_arguments,
    add_json_argument,
    add_trust_remote_code_argument,
    send,
)
from optimum_htp.cli.parser import UNAVAILABLE, integer, number

__all__ = ["NOT_OPTIONS", "HTPExportCommand"]

NOT_OPTIONS: Final = {"func", "model", "output", "json", "report", "force", "destinations", "not_options", "quiet"}
"""Arguments that are not options of the exporter."""

_HELP: Final = {
    "model": MODEL,
    "output": "Folder to write to; for a model of one file also a file name that ends in .onnx.",
    "cache_dir": CACHE_DIR,
}
"""Help texts that replace Optimum's."""


class HTPExportCommand(Command):
    """Exports a model. The options are those of Optimum, and ours."""

    examples = (
        "export htp --model sentence-transformers/all-MiniLM-L6-v2 out/",
        "export htp --model org/model@v1.0 --optimize O2 out/",
    )

    COMMAND = CommandInfo(
        name="htp", help="Export PyTorch models to ONNX files with a record of the Hugging Face model."
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments."""
        from optimum_htp.errors import MissingDependencyError
        from optimum_htp.libraries.dependencies import has_transformers_exporters, needing_optimum_onnx

        try:
            with needing_optimum_onnx("optimum-cli export htp"):
                from optimum.commands.export.onnx import parse_args_onnx
            parse_args_onnx(parser)
        except MissingDependencyError as error:
            if not has_transformers_exporters():
                # optimum-cli creates the parsers of all its commands: the error is for this command only.
                parser.description = str(error)
                parser.set_defaults(**{UNAVAILABLE: str(error)})
                return
            _transformers_arguments(parser)
        for action in parser._actions:
            action.help = _HELP.get(action.dest, action.help)
            if action.type is int:
                action.type = integer(0)
            elif action.type is float:
                action.type = number()
            elif action.type is json.loads:
                action.type = _json_object
        parser.add_argument(
            "--engine",
            choices=("optimum", "transformers"),
            help="Exporter to use. Default: optimum if it supports the model, else transformers' own exporters "
            "(transformers 5.24 or newer).",
        )
        group = parser.add_argument_group("Provenance arguments")
        group.add_argument("--revision", help=REVISION)
        add_hub_arguments(group, cache_dir=False)  # Optimum declares --cache_dir.
        group.add_argument(
            "--verify-hub",
            action="store_true",
            help="Fail unless the Hub confirms model and commit, and the written files load with an empty cache.",
        )
        group.add_argument(
            "--with-config",
            action="store_true",
            help="Write config and preprocessor files next to the ONNX files, also for a Hub model.",
        )
        group.add_argument(
            "--no-hierarchy",
            dest="hierarchy",
            action="store_false",
            help="Do not tag the nodes with their modules of the PyTorch model.",
        )
        add_embed_argument(group)
        group.add_argument("--report", metavar="FILE", help="Also write a report: .json, .md or .html.")
        add_force_argument(group)
        add_json_argument(group)
        # optimum-cli creates this parser for each of its commands. The plugins are loaded for this command only.
        parser.set_defaults(destinations=(), not_options=())
        if sys.argv[1:3] == ["export", "htp"]:
            parser.set_defaults(not_options=add_destinations(group))

    def execute(self) -> None:
        """Export, and print the written files."""
        from optimum_htp.cli.display import show, show_json
        from optimum_htp.export.exporter import HTPExporter
        from optimum_htp.report.document import report_document
        from optimum_htp.report.write import check_report_path, write_report

        if self.args.report is not None:
            check_report_path(self.args.report, [self.args.model], force=self.args.force)
        excluded = {*NOT_OPTIONS, *self.args.not_options}
        arguments = {name: value for name, value in vars(self.args).items() if name not in excluded}
        result = HTPExporter().export(self.args.model, self.args.output, use_subprocess=True, **arguments)
        if self.args.report is not None:
            inputs = [self.args.model, *result.files]
            write_report(report_document(result.files), self.args.report, inputs, force=self.args.force)
        document: dict[str, Any] = {
            "files": [str(path) for path in result.files],
            "task": result.task,
            "engine": result.engine,
            "seconds": round(result.seconds, 3),
            "metadata": dataclasses.asdict(result.metadata),
        }
        if not self.args.json:
            how = " with transformers' own exporters" if result.engine == "transformers" else ""
            show(f"Exported {result.metadata.source} for {result.task}{how} in {result.seconds:.1f} s:")
            for path in result.files:
                show(f"  {path}")
        self.partial = document  # the files stay even if a destination fails
        send(self.args, result.files, document)
        if self.args.json:
            show_json(document)


def _transformers_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of the transformers engine, if Optimum's parser cannot be imported."""
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("output")
    parser.add_argument("--task", default="auto", help="Optimum task (default: inferred).")
    parser.add_argument("--opset", type=int, help="ONNX opset version.")
    parser.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), help="Precision of the weights.")
    parser.add_argument("--device", default="cpu", help="Device to trace the model on.")
    parser.add_argument("--cache_dir")
    add_trust_remote_code_argument(parser)
    parser.add_argument("--no-dynamic-axes", action="store_true", help="Export with fixed input sizes.")
    parser.add_argument("--library", dest="library_name", choices=("transformers",))
    parser.add_argument("--batch_size", type=int, help="Batch size of the sample inputs.")
    parser.add_argument("--sequence_length", type=int, help="Sequence length of the sample inputs.")


def _json_object(text: str) -> dict[str, Any]:
    """Parse the value of `--model-kwargs`."""
    from optimum_htp.parsing import parse_json

    try:
        value = parse_json(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ArgumentTypeError(f"{text!r} is not a JSON object")
    return value
