"""`optimum-cli htp compare A B`: compare two models module by module."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_htp.cli.base import Command
from optimum_htp.cli.display import bar, cut, show, show_json
from optimum_htp.cli.files import expand
from optimum_htp.cli.options import (
    add_force_argument,
    add_hub_arguments,
    add_json_argument,
    add_trust_remote_code_argument,
    hub_access,
)
from optimum_htp.cli.parser import number

if TYPE_CHECKING:
    from optimum_htp.modules.comparison.records import Comparison

__all__ = ["CompareCommand"]


class CompareCommand(Command):
    """Compares files; exits with 1 if a difference exceeds the tolerances, or if B has no file of that name."""

    examples = (
        "htp compare out/model.onnx quantized/model_quantized.onnx",
        "htp compare out/model.onnx --pytorch -o diff.html",
    )
    exit_codes = "0 equal within the tolerances, 1 different or an error, 2 wrong arguments"

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("one", metavar="A", help="A tagged ONNX file, or a folder of them.")
        parser.add_argument("other", metavar="B", nargs="?", help="An ONNX file of the same model, or a folder.")
        parser.add_argument(
            "--pytorch", action="store_true", help="Compare with the PyTorch model of the commit instead of B."
        )
        parser.add_argument("--inputs", metavar="NPZ", help="Input arrays (default: generated inputs).")
        parser.add_argument("--atol", type=number(), default=1e-4, help="Absolute tolerance (default: 1e-4).")
        parser.add_argument("--rtol", type=number(), default=1e-3, help="Relative tolerance (default: 1e-3).")
        parser.add_argument("--all", action="store_true", help="Show also the modules without differences.")
        parser.add_argument("-o", "--output", metavar="FILE", help="Also write a report: .json, .md or .html.")
        add_trust_remote_code_argument(parser)
        add_force_argument(parser)
        add_json_argument(parser)
        add_hub_arguments(parser)

    def execute(self) -> None:
        """Compare, report, and exit with 1 if a difference exceeds the tolerances."""
        from optimum_htp.errors import ArgumentError
        from optimum_htp.modules.comparison.compare import compare_models
        from optimum_htp.modules.comparison.render import write_comparison
        from optimum_htp.report.write import check_report_path

        args = self.args
        if (args.other is None) == (not args.pytorch):
            raise ArgumentError("Pass either a second file B or --pytorch.")
        pairs, missing = _pairs(args.one, args.other)
        if args.output:
            inputs = [file for file in (args.one, args.other, args.inputs) if file is not None]
            check_report_path(args.output, inputs, force=args.force)  # fail early
            if len(pairs) + len(missing) > 1:
                raise ArgumentError("--output takes one pair of files. Pass two files instead of folders.")
        found = []
        for one, other in pairs:
            with bar(f"Comparing {one}", "module", hidden=False) as progress:
                found.append(
                    compare_models(
                        one,
                        other,
                        pytorch=args.pytorch,
                        inputs=args.inputs,
                        atol=args.atol,
                        rtol=args.rtol,
                        access=hub_access(args),
                        trust_remote_code=args.trust_remote_code,
                        progress=self._progress(progress),
                    )
                )
        exceeds = bool(missing) or any(comparison.exceeds for comparison in found)
        if args.output:
            write_comparison(found[0], args.output, force=args.force)
        if args.json:
            comparisons = [comparison.as_dict() for comparison in found]
            show_json({"comparisons": comparisons, "missing": missing, "exceeds": exceeds})
        else:
            for comparison in found:
                self._show(comparison)
            if missing:
                show(f"{args.other} has no {', '.join(missing)}")
        if exceeds:
            sys.exit(1)

    def _progress(self, update: Any) -> Any:
        def progress(done: int, total: int) -> None:
            self.stop.check()
            update(done, total)

        return progress

    def _show(self, comparison: Comparison) -> None:
        from optimum_htp.modules.comparison.render import lines, verdict

        show(f"{comparison.one} and {comparison.other}")
        for line in verdict(comparison):
            show(f"  {line}")
        for line in lines(comparison, every=self.args.all):
            show(cut(line))


def _pairs(one: str, other: str | None) -> tuple[list[tuple[str, str | None]], list[str]]:
    """Return the pairs of files to compare, and the names that only the first folder has."""
    from optimum_htp.errors import ArgumentError

    folder = Path(one)
    if not folder.is_dir():
        return [(one, other)], []
    names = sorted(Path(file).relative_to(folder) for file in expand([one]) if file.endswith(".onnx"))
    missing = [name.as_posix() for name in names if other is not None and not (Path(other) / name).is_file()]
    names = [name for name in names if name.as_posix() not in missing]
    if not names:
        raise ArgumentError(f"{one} has no ONNX files{f' that are also in {other}' if other is not None else ''}.")
    return [(str(folder / name), None if other is None else str(Path(other) / name)) for name in names], missing
