"""`optimum-cli htp nodes FILE PATTERN...`: the names of the nodes of modules, for other tools."""

from __future__ import annotations

from argparse import ArgumentParser

from optimum_htp.cli.base import Command
from optimum_htp.cli.display import show_data, show_json
from optimum_htp.cli.files import expand
from optimum_htp.cli.options import add_json_argument

__all__ = ["NodesCommand"]


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
