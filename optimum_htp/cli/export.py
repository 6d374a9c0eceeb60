"""`optimum-cli export htp`: every option of `optimum-cli export onnx`, and ours."""

from __future__ import annotations

import dataclasses
import sys
from argparse import SUPPRESS, Action, ArgumentParser
from collections.abc import Callable
from typing import Any, Final

from optimum.commands.base import CommandInfo

from optimum_htp.cli.base import Command
from optimum_htp.cli.destinations import add_destinations, send
from optimum_htp.cli.files import add_force_argument

__all__ = ["NOT_OPTIONS", "HTPExportCommand"]

# Set by argparse and by optimum-cli itself.
NOT_OPTIONS: Final = {
    "func",
    "model",
    "output",
    "json",
    "report",
    "force",
    "destinations",
    "not_options",
}


class HTPExportCommand(Command):
    """Exports a model; its parser is Optimum's own with our options added."""

    examples = (
        "export htp --model sentence-transformers/all-MiniLM-L6-v2 out/",
        "export htp --model org/model@v1.0 --optimize O2 out/",
    )

    COMMAND = CommandInfo(
        name="htp", help="Export PyTorch to ONNX files that know which Hugging Face model they came from."
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments."""
        from optimum_htp.errors import MissingDependencyError

        try:
            _optimums_own()(parser)
        except MissingDependencyError as error:
            if not _has_other_engine():
                # optimum-cli makes the parsers of all its commands: only who asks for this one may hear of it.
                parser.description = str(error)
                parser.add_argument("arguments", nargs="*", action=_Refusal, help=SUPPRESS)
                return
            _other_engines_own(parser)
        for action in parser._actions:
            if action.dest == "model":
                action.help = "Model on the Hub (NAME or ORG/NAME, either with @REVISION) or folder on disk to export."
            elif action.dest == "output":
                action.help = "Folder to write to, or for a model of one file a file name that ends in .onnx."
        parser.add_argument(
            "--engine",
            choices=("optimum", "transformers"),
            help="Exporter to use. Default: optimum if it supports the model, else transformers' own exporters "
            "(transformers 5.24 or newer).",
        )
        group = parser.add_argument_group("Provenance arguments")
        group.add_argument("--revision", help="Branch, tag, commit or refs/pr/N of the model to export.")
        group.add_argument(
            "--local-files-only", action="store_true", help="Take everything from the cache; open no connection."
        )
        group.add_argument(
            "--force-download", action="store_true", help="Fetch files again although the cache has them."
        )
        group.add_argument(
            "--verify-hub",
            action="store_true",
            help="Fail unless the Hub confirms model and commit, and the written files resolve from an empty cache.",
        )
        group.add_argument(
            "--with-config",
            action="store_true",
            help="Keep config and preprocessor files beside the ONNX files of a Hub model too.",
        )
        group.add_argument(
            "--no-hierarchy",
            dest="hierarchy",
            action="store_false",
            help="Do not write into each node which module of the PyTorch model it came from.",
        )
        group.add_argument(
            "--embed",
            choices=("all", "config", "none"),
            default="all",
            help="What travels in the (first) ONNX file: config and preprocessors (default), the config, or nothing.",
        )
        group.add_argument("--report", help="Also write a report: a name in .json, .md or .html.")
        add_force_argument(group)
        group.add_argument("--json", action="store_true", help="Print one JSON document about what was written.")
        # optimum-cli makes this parser for all of its commands, and plugins are loaded for this one alone.
        parser.set_defaults(destinations=(), not_options=())
        if sys.argv[1:3] == ["export", "htp"]:
            parser.set_defaults(not_options=add_destinations(group))

    def execute(self) -> None:
        """Export, and say what was written."""
        from optimum_htp.cli.display import show, show_json
        from optimum_htp.export.exporter import HTPExporter
        from optimum_htp.report.document import report_document
        from optimum_htp.report.write import check_report_path, write_report

        if self.args.report is not None:
            check_report_path(self.args.report, [self.args.model], force=self.args.force)
        others = {*NOT_OPTIONS, *self.args.not_options}
        arguments = {name: value for name, value in vars(self.args).items() if name not in others}
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
        self.partial = document  # the files stay, also if sending them fails
        send(self.args, result.files, document)
        if self.args.json:
            show_json(document)


def _optimums_own() -> Callable[[ArgumentParser], None]:
    """Return the function that declares the arguments of `optimum-cli export onnx`."""
    from optimum_htp.libraries.dependencies import needing_optimum_onnx

    with needing_optimum_onnx("optimum-cli export htp"):
        from optimum.commands.export.onnx import parse_args_onnx
    return parse_args_onnx  # type: ignore[no-any-return]


def _has_other_engine() -> bool:
    """Whether transformers has exporters of its own; neither is imported for that."""
    from optimum_htp.libraries.dependencies import has_transformers_exporters

    return has_transformers_exporters()


def _other_engines_own(parser: ArgumentParser) -> None:
    """Declare the arguments of the transformers engine, for when Optimum's parser cannot be imported."""
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("output")
    parser.add_argument("--task", default="auto", help="Task to export the model for. Default: inferred.")
    parser.add_argument("--opset", type=int, help="ONNX opset version.")
    parser.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), help="Precision of the weights.")
    parser.add_argument("--device", default="cpu", help="Device to trace the model on.")
    parser.add_argument("--cache_dir", help="Root of the Hub's cache.")
    parser.add_argument("--trust-remote-code", action="store_true", help="Allow custom code from the model's repo.")
    parser.add_argument("--no-dynamic-axes", action="store_true", help="Export with fixed input sizes.")
    parser.add_argument("--library", dest="library_name", choices=("transformers",))
    parser.add_argument("--batch_size", type=int, help="Batch size of the sample inputs.")
    parser.add_argument("--sequence_length", type=int, help="Sequence length of the sample inputs.")


class _Refusal(Action):
    """Takes whatever is given, and says why nothing can be done with it."""

    def __call__(self, parser: ArgumentParser, *_: object) -> None:
        parser.exit(1, f"error: {parser.description}\n")
