"""`optimum-cli htp extract FILE --module PATH -o layer.onnx`: a module as an ONNX model of its own."""

from __future__ import annotations

import dataclasses
from argparse import ArgumentParser

from optimum_htp.cli.base import Command
from optimum_htp.cli.display import show, show_json, wrapped
from optimum_htp.cli.folding import folded

__all__ = ["ExtractCommand"]


class ExtractCommand(Command):
    """Cuts a module out of a tagged file."""

    examples = (
        "htp extract out/model.onnx --module bert.encoder.layer.0 -o layer.onnx",
        "htp extract out/model.onnx --module bert.pooler -o pooler.onnx --json",
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("file", metavar="FILE", help="A tagged ONNX file.")
        parser.add_argument(
            "--module", required=True, metavar="PATH", help="The module, or a pattern that matches one (see nodes)."
        )
        parser.add_argument("-o", "--output", required=True, help="The file to write.")
        parser.add_argument(
            "--call", type=int, metavar="N", help="Which call of a module that is called several times."
        )
        parser.add_argument("--json", action="store_true", help="Print one JSON document.")

    def execute(self) -> None:
        """Write the module, and say what crosses its border."""
        from optimum_htp.modules.extract import extract_module

        cut = extract_module(self.args.file, self.args.module, self.args.output, self.args.call)
        if self.args.json:
            show_json({**dataclasses.asdict(cut), "path": str(cut.path)})
            return
        which = f", call {cut.call} of {cut.calls}" if cut.calls > 1 else ""
        kind = f" {cut.class_name}" if cut.class_name else ""
        show(f"{cut.path}: {cut.module or '(model)'}{kind}{which}, {cut.nodes} nodes, {cut.initializers} initializers")
        for label, specs in (("inputs", cut.inputs), ("outputs", cut.outputs)):
            for at, line in enumerate(wrapped(folded(specs), len(label) + 1)):
                show(f"{' ' * len(label) if at else label} {line}")
