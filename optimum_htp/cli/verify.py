"""`optimum-cli htp verify FILE...`: hold what files say against the Hub."""

from __future__ import annotations

import dataclasses
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from optimum.commands.base import CommandInfo

from optimum_htp.cli.display import show
from optimum_htp.cli.files import FilesCommand, Outcome, add_hub_arguments, hub_access
from optimum_htp.report.texts import sentence

__all__ = ["VerifyCommand"]


class VerifyCommand(FilesCommand):
    """Checks records; its exit code says what is wrong: 1 invalid, 3 does not fit, 4 cannot be reached."""

    COMMAND = CommandInfo(
        name="verify",
        help="Check that what ONNX files say about themselves holds. Exit code: 0 it does, 1 invalid (or several "
        "things are wrong), 3 the model does not fit the graph, 4 the Hub cannot be reached.",
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments."""
        FilesCommand.parse_args(parser)
        add_hub_arguments(parser)

    def prepare(self, files: Sequence[str]) -> Callable[[str], Any]:
        """Return what checks a file."""
        from optimum_htp.stamping.verify import verify_metadata

        access = hub_access(self.args)
        return lambda file: verify_metadata(file, access)

    def show(self, outcome: Outcome, *, several: bool) -> None:
        """Print the verdict, on standard error where something is wrong."""
        verdict = outcome.value
        stream = sys.stderr if verdict.status.value else sys.stdout
        show(f"{outcome.file}: {verdict.status.name.lower()}: {sentence(verdict.reason)}", stream)

    def document(self, outcome: Outcome) -> dict[str, Any]:
        """Return the verdict for JSON."""
        verdict = outcome.value
        record = None if verdict.metadata is None else dataclasses.asdict(verdict.metadata)
        return {"status": verdict.status.name.lower(), "reason": verdict.reason, "record": record}

    def exit_code(self, outcomes: Iterable[Outcome]) -> int:
        """Return the code of what is wrong, 1 where different things are."""
        codes = {1 if outcome.error is not None else outcome.value.status.value for outcome in outcomes} - {0}
        return codes.pop() if len(codes) == 1 else int(bool(codes))
