"""`optimum-cli htp inject FILE... --model ID`: stamp files of other exporters."""

from __future__ import annotations

import dataclasses
import functools
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_htp.cli.destinations import add_destinations, send
from optimum_htp.cli.display import show
from optimum_htp.cli.files import FileResult, FilesCommand
from optimum_htp.cli.options import EMBED, MODEL, REVISION, add_external_data_argument, add_hub_arguments, hub_access

if TYPE_CHECKING:
    from optimum_htp.metadata import ExportMetadata
    from optimum_htp.onnxfile.unchanged import Check

__all__ = ["InjectCommand"]


class InjectCommand(FilesCommand):
    """Looks up the model once, and stamps each file that matches it."""

    examples = (
        "htp inject onnx/*.onnx --model org/model@v1.0",
        "htp inject model.onnx --model ./my-model --json",
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments."""
        FilesCommand.parse_args(parser)
        parser.add_argument("-m", "--model", required=True, help=MODEL)
        parser.add_argument("--revision", help=REVISION)
        parser.add_argument("--task", help="Optimum task (default: inferred from graph and model).")
        parser.add_argument("--force", action="store_true", help="Stamp files also if they do not match the model.")
        parser.add_argument(
            "--embed",
            choices=("all", "config", "none"),
            default="all",
            help=EMBED,
        )
        add_external_data_argument(parser)
        parser.add_argument("--dry-run", action="store_true", help="Show the changes without writing.")
        add_destinations(parser)
        add_hub_arguments(parser)

    def prepare(self, files: Sequence[str]) -> Callable[[str], Any]:
        """Look up the model."""
        from optimum_htp.onnxfile.unchanged import check_of, checked_before_replacing
        from optimum_htp.stamping.inject import look_up, siblings_of

        access = hub_access(self.args)
        injection = look_up(
            self.args.model,
            self.args.revision,
            access,
            embed=self.args.embed,
            external_data=self.args.external_data,
        )
        siblings = siblings_of(map(Path, files))

        @functools.cache
        def examine(path: Path, task: str | None) -> tuple[Check, ExportMetadata]:
            return check_of(path), injection.record(path, siblings.get(path, ()), task=task, force=self.args.force)

        def work(file: str) -> Any:
            path, task = Path(file), self.args.task
            # All parts of a model must match it, and have the same task.
            tasks = {examine(path.with_name(name), task)[1].task for name in siblings.get(path, ())}
            if len(tasks) > 1:
                task = max(filter(None, tasks), key=len)
            check, mine = examine(path, task)
            if self.args.dry_run:
                return mine
            with checked_before_replacing(check):
                return injection.write(path, mine)

        return work

    def show(self, outcome: FileResult, *, several: bool) -> None:
        """Print the source and the task."""
        would = "would be " if self.args.dry_run else ""
        show(f"{outcome.file}: {would}stamped as {outcome.value.source} for {outcome.value.task}")

    def document(self, outcome: FileResult) -> dict[str, Any]:
        """Return the record, for JSON."""
        return {"written": not self.args.dry_run, "record": dataclasses.asdict(outcome.value)}

    def finish(self, outcomes: Sequence[FileResult]) -> dict[str, Any]:
        """Send the files to the destinations, if each was stamped."""
        if not self.args.dry_run:
            send(self.args, [outcome.file for outcome in outcomes], self.partial)
        return self.partial
