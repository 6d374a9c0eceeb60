"""`optimum-cli htp nodes FILE PATTERN...`: the nodes of modules, for tools that want their names."""

from __future__ import annotations

from argparse import ArgumentParser

from optimum_htp.cli.base import Command
from optimum_htp.cli.display import show, show_json
from optimum_htp.cli.files import expand

__all__ = ["NodesCommand"]


class NodesCommand(Command):
    """Prints the names of the nodes of modules, one a line."""

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
        parser.add_argument("--json", action="store_true", help="Print module, class, operator and initializers too.")

    def execute(self) -> None:
        """Print the nodes of the files; a pattern has to match in one of them."""
        from optimum_htp.modules.select import find_nodes_of_files

        found = find_nodes_of_files(expand([self.args.file]), self.args.patterns)
        if self.args.json:
            documents = [{"file": file, "nodes": [node.as_dict() for node in nodes]} for file, nodes in found.items()]
            show_json({"files": documents})
            return
        for name in dict.fromkeys(node.name for nodes in found.values() for node in nodes if node.name):
            show(name)
