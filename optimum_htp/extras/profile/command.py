"""`optimum-cli htp profile FILE`: measure the time of each module in ONNX Runtime."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Final

from optimum_htp.cli.base import Command
from optimum_htp.cli.display import amount, cut, show, show_json, wrapped
from optimum_htp.cli.options import add_force_argument, add_json_argument
from optimum_htp.cli.parser import integer

__all__ = ["ProfileCommand"]

_SHAPES: Final = {
    "batch_size": "Batch size of the generated inputs.",
    "sequence_length": "Number of tokens in a generated text.",
    "num_choices": "Number of choices in a generated question.",
    "width": "Width of generated images, in pixels.",
    "height": "Height of generated images, in pixels.",
    "num_channels": "Number of channels of generated images.",
    "point_batch_size": "Number of groups of generated points.",
    "nb_points_per_image": "Number of generated points for each image.",
    "visual_seq_length": "Number of image features in a generated sequence.",
    "feature_size": "Number of features in each frame of generated audio.",
    "nb_max_frames": "Number of frames of generated audio.",
    "audio_sequence_length": "Number of samples of generated audio.",
}


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
        parser.add_argument("--runs", type=integer(1), default=10, metavar="N", help="Timed runs (default: 10).")
        parser.add_argument(
            "--warmup", type=integer(0), default=2, metavar="N", help="Runs before the timed runs (default: 2)."
        )
        parser.add_argument("--depth", type=integer(1), metavar="N", help="Number of module levels to show.")
        parser.add_argument("--provider", default="CPUExecutionProvider", help="Execution provider of ONNX Runtime.")
        parser.add_argument(
            "--threads", type=integer(0), default=0, metavar="N", help="Threads per operator (default: all)."
        )
        parser.add_argument(
            "--no-optimize", action="store_true", help="Disable the graph optimizations of ONNX Runtime."
        )
        add_json_argument(parser)
        parser.add_argument("-o", "--output", metavar="FILE", help="Also write a report: .json, .md or .html.")
        add_force_argument(parser)
        group = parser.add_argument_group("Input shapes")
        for name in _shape_names():
            group.add_argument(
                f"--{name}", type=integer(1), metavar="N", help=_SHAPES.get(name, f"{name} of the generated inputs.")
            )

    def execute(self) -> None:
        """Run, and print the tree."""
        from optimum_htp.extras.profile.running import profile_file
        from optimum_htp.hierarchy.summary import summarize
        from optimum_htp.report.document import report_document
        from optimum_htp.report.outline import outline
        from optimum_htp.report.write import check_report_path, write_report

        if self.args.output is not None:
            check_report_path(self.args.output, [self.args.file], force=self.args.force)
        shapes = {name: getattr(self.args, name) for name in _shape_names()}
        profile = profile_file(
            self.args.file,
            runs=self.args.runs,
            warmup=self.args.warmup,
            provider=self.args.provider,
            optimize=not self.args.no_optimize,
            threads=self.args.threads,
            **{name: size for name, size in shapes.items() if size is not None},
        )
        modules = summarize(profile.graph, profile.assignment, profile.microseconds)
        if self.args.output is not None:
            document = report_document([self.args.file], profiles={self.args.file: profile})
            write_report(document, self.args.output, [self.args.file], force=self.args.force)
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
        nodes, runs = amount(len(profile.graph.nodes), "node"), amount(profile.runs, "run")
        show(f"{profile.total / 1e3:.3f} ms in {nodes}, mean of {runs}")
        for line in wrapped([f"{profile.provider}, {sizes}"], 0):
            show(line)
        show()
        for line in outline(modules, depth=self.args.depth, times=True):
            show(cut(line))


def _shape_names() -> list[str]:
    """Return Optimum's names of input sizes, or none if Optimum cannot be imported."""
    try:
        from optimum.utils import DEFAULT_DUMMY_SHAPES
    except (ImportError, AttributeError, RuntimeError):
        return []
    return list(DEFAULT_DUMMY_SHAPES)
