"""The commands about the modules of a tagged file: `nodes` and `extract`."""

from __future__ import annotations

import dataclasses
from argparse import ArgumentParser

from optimum_htp.cli.base import Command
from optimum_htp.cli.display import amount, folded, show, show_data, show_json, wrapped
from optimum_htp.cli.files import expand
from optimum_htp.cli.options import add_json_argument
from optimum_htp.cli.parser import integer

__all__ = ["ExtractCommand", "NodesCommand"]


class NodesCommand(Command):
    """Prints the names of the nodes of modules, one per line."""

    examples = (
        "htp nodes out/model.onnx bert.encoder.layer.0.attention",
        "htp nodes out/model.onnx '**.output.dense' --json",
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("file", metavar="FILE", help="A tagged ONNX file, a folder of them, or a glob.")
        parser.add_argument(
            "patterns",
            nargs="+",
            metavar="PATTERN",
            help="A module (bert.encoder.layer.0), with globs (* is one component, ** any number), or a class.",
        )
        add_json_argument(parser)

    def execute(self) -> None:
        """Print the nodes of the files; each pattern must match in at least one of them."""
        from optimum_htp.modules.select import find_nodes_of_files

        found = find_nodes_of_files(expand([self.args.file]), self.args.patterns)
        if self.args.json:
            documents = [{"file": file, "nodes": [node.as_dict() for node in nodes]} for file, nodes in found.items()]
            show_json({"files": documents})
            return
        for name in dict.fromkeys(node.name for nodes in found.values() for node in nodes if node.name):
            show_data(name)


class ExtractCommand(Command):
    """Extracts a module of a tagged file."""

    examples = (
        "htp extract out/model.onnx --module bert.encoder.layer.0 -o layer.onnx",
        "htp extract out/model.onnx --module bert.pooler -o pooler.onnx --json",
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("file", metavar="FILE", help="A tagged ONNX file.")
        parser.add_argument(
            "--module",
            required=True,
            metavar="PATH",
            help="Module, or a pattern that matches one module (see nodes).",
        )
        parser.add_argument("-o", "--output", metavar="FILE", required=True, help="ONNX file to write.")
        parser.add_argument(
            "--call",
            type=integer(1),
            metavar="N",
            help="Call to extract, if the module is called several times.",
        )
        add_json_argument(parser)

    def execute(self) -> None:
        """Write the module, and print its inputs and outputs."""
        from optimum_htp.modules.extract import extract_module

        cut = extract_module(self.args.file, self.args.module, self.args.output, self.args.call)
        if self.args.json:
            show_json({**dataclasses.asdict(cut), "path": str(cut.path)})
            return
        which = f", call {cut.call} of {cut.calls}" if cut.calls > 1 else ""
        kind = f" {cut.class_name}" if cut.class_name else ""
        size = f"{amount(cut.nodes, 'node')}, {amount(cut.initializers, 'initializer')}"
        show(f"{cut.path}: {cut.module or '(model)'}{kind}{which}, {size}")
        for label, specs in (("inputs", cut.inputs), ("outputs", cut.outputs)):
            for at, line in enumerate(wrapped(folded(specs), len(label) + 1)):
                show(f"{' ' * len(label) if at else label} {line}")
