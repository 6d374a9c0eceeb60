"""`optimum-cli htp profile FILE`: the time that each module takes in ONNX Runtime."""

from __future__ import annotations

from argparse import ArgumentParser

from optimum_htp.cli.base import Command
from optimum_htp.cli.display import cut, show, show_json, wrapped
from optimum_htp.cli.files import add_force_argument

__all__ = ["ProfileCommand"]


class ProfileCommand(Command):
    """Runs a tagged file on generated inputs and sums the time of its nodes by module."""

    examples = (
        "htp profile out/model.onnx",
        "htp profile out/model.onnx --json",
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("file", metavar="FILE", help="A tagged ONNX file.")
        parser.add_argument("--runs", type=int, default=10, help="Runs that are timed (default: 10).")
        parser.add_argument("--warmup", type=int, default=2, help="Runs before those (default: 2).")
        parser.add_argument("--depth", type=int, help="Levels of modules to show.")
        parser.add_argument("--provider", default="CPUExecutionProvider", help="Execution provider of ONNX Runtime.")
        parser.add_argument("--threads", type=int, default=0, help="Threads of one operator (default: all cores).")
        parser.add_argument("--no-optimize", action="store_true", help="Run the graph as it is in the file.")
        parser.add_argument("--json", action="store_true", help="Print one JSON document.")
        parser.add_argument("--report", help="Also write a report with times: a name in .json, .md or .html.")
        add_force_argument(parser)
        group = parser.add_argument_group("Input shapes")
        for name in _shape_names():
            group.add_argument(f"--{name}", type=int, default=None, help="Size of inputs, as for `export onnx`.")

    def execute(self) -> None:
        """Run, and print the tree."""
        from optimum_htp.extras.profile.running import profile_file
        from optimum_htp.hierarchy.summary import summarize
        from optimum_htp.report.document import report_document
        from optimum_htp.report.outline import outline
        from optimum_htp.report.write import check_report_path, write_report

        if self.args.report is not None:
            check_report_path(self.args.report, [self.args.file], force=self.args.force)
        shapes = {name: getattr(self.args, name) for name in _shape_names()}
        profile = profile_file(
            self.args.file,
            runs=max(1, self.args.runs),
            warmup=max(0, self.args.warmup),
            provider=self.args.provider,
            optimize=not self.args.no_optimize,
            threads=self.args.threads,
            **{name: size for name, size in shapes.items() if size is not None},
        )
        modules = summarize(profile.graph, profile.assignment, profile.microseconds)
        if self.args.report is not None:
            document = report_document([self.args.file], profiles={self.args.file: profile})
            write_report(document, self.args.report, [self.args.file], force=self.args.force)
        if self.args.json:
            document = {
                "file": self.args.file,
                "provider": profile.provider,
                "runs": profile.runs,
                "shapes": profile.shapes,
                "total_microseconds": profile.total,
                "modules": [module.as_dict() for module in modules.values()],
            }
            show_json(document)
            return
        sizes = ", ".join(f"{name} {list(shape)}" for name, shape in profile.shapes.items())
        show(f"{profile.total / 1e3:.3f} ms in {len(profile.graph.nodes)} nodes, mean of {profile.runs} runs")
        for line in wrapped([f"{profile.provider}, {sizes}"], 0):
            show(line)
        show()
        for line in outline(modules, depth=self.args.depth, times=True):
            show(cut(line))


def _shape_names() -> list[str]:
    """Return Optimum's names of sizes; none where it cannot be imported, for the other commands' parsers' sake."""
    try:
        from optimum.utils import DEFAULT_DUMMY_SHAPES
    except (ImportError, AttributeError, RuntimeError):
        return []
    return list(DEFAULT_DUMMY_SHAPES)
