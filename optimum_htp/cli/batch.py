"""`optimum-cli htp batch`: exports many models, each in a process of its own."""

from __future__ import annotations

import os
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from optimum.commands.base import CommandInfo

from optimum_htp.cli.base import Command
from optimum_htp.cli.export import NOT_OPTIONS, HTPExportCommand

if TYPE_CHECKING:
    from optimum_htp.delivery.jobs import Job
    from optimum_htp.delivery.work import Outcome

__all__ = ["BatchCommand"]

# Of an export's arguments: what a list says of each model, and what is said of the whole batch.
_NOT_COMMON: Final = {*NOT_OPTIONS, "help", "revision"}
_ACCESS: Final = ("cache_dir", "local_files_only", "force_download")
_UNITS: Final = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


class BatchCommand(Command):
    """Exports the models of a list; a model that fails stops no other."""

    COMMAND = CommandInfo(name="batch", help="Export many models side by side; run again, do what is not done.")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments: ours, and those of an export, which are for each model."""
        parser.add_argument(
            "list", metavar="LIST", help="Text file with a model a line (NAME, ORG/NAME, or JSON), or - for input."
        )
        parser.add_argument("output", metavar="OUT", help="Folder that gets a folder for each model, and batch.jsonl.")
        group = parser.add_argument_group("Batch arguments")
        group.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 1) // 2), help="Exports at a time.")
        group.add_argument("--timeout", type=float, help="Seconds that a model may take.")
        group.add_argument("--memory", type=_bytes, help="Memory that an export may use, such as 8GB.")
        group.add_argument("--retry-failed", action="store_true", help="Export again what failed in an earlier run.")
        group.add_argument("--json", action="store_true", help="Print one JSON document.")
        exports = ArgumentParser(add_help=False)
        HTPExportCommand.parse_args(exports)
        group = parser.add_argument_group("Arguments for each model")
        for_each = [action for action in exports._actions if action.dest not in _NOT_COMMON]
        for action in for_each:
            group._add_action(action)
        parser.set_defaults(for_each=[action.dest for action in for_each])

    def execute(self) -> None:
        """Export, with a progress bar; exit with 1 where a model failed."""
        from concurrent.futures import ThreadPoolExecutor

        from huggingface_hub.utils import disable_progress_bars
        from tqdm import tqdm

        from optimum_htp.cli.display import show, show_json
        from optimum_htp.delivery import run_batch
        from optimum_htp.delivery.processes import ProcessExecutor
        from optimum_htp.hubs.base import HubAccess

        options = {name: getattr(self.args, name) for name in self.args.for_each}
        access = HubAccess(**{name: options.pop(name) for name in _ACCESS})
        jobs = _jobs(self.args.list, options)
        slots = max(1, self.args.jobs)
        threads = max(1, (os.cpu_count() or 1) // slots)
        disable_progress_bars()  # those of downloads: there is one for the batch
        with (
            ProcessExecutor(slots, timeout=self.args.timeout, memory=self.args.memory, threads=threads) as exports,
            ThreadPoolExecutor(1) as downloads,
            tqdm(total=len(jobs), unit="model", disable=None) as bar,
        ):

            def told(job: Job, outcome: Outcome) -> None:
                bar.set_postfix_str(job.output, refresh=False)
                bar.update()

            outcomes = run_batch(
                jobs,
                Path(self.args.output),
                access=access,
                exports=exports,
                downloads=downloads,
                ahead=slots + 1,
                retry_failed=self.args.retry_failed,
                told=told,
            )
        failed = sum(outcome.state in ("failed", "lost") for outcome in outcomes.values())
        if self.args.json:
            show_json({"models": [_document(job, outcomes[job.output]) for job in jobs], "failed": failed})
        else:
            for line in _table(jobs, outcomes):
                show(line)
        if failed:
            raise SystemExit(1)


def _jobs(name: str, options: Mapping[str, Any]) -> list[Job]:
    from optimum_htp.delivery.jobs import jobs_from_lines, read_jobs

    return jobs_from_lines(sys.stdin, "standard input", options) if name == "-" else read_jobs(Path(name), options)


def _bytes(text: str) -> int:
    """Parse `8GB`, `500M` or a number of bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)i?B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise ArgumentTypeError(f"{text!r} is no amount of memory: give one such as 8GB or 500MB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def _document(job: Job, outcome: Outcome) -> dict[str, Any]:
    return {"model": job.model, "output": job.output, **outcome.to_entry()}


def _table(jobs: Sequence[Job], outcomes: Mapping[str, Outcome]) -> list[str]:
    """Return a line for each model, and one for all."""
    width = max((len(job.output) for job in jobs), default=0)
    lines = []
    for job in jobs:
        outcome = outcomes[job.output]
        if outcome.state == "done":
            told = f"{outcome.seconds:6.1f} s  {outcome.peak_memory / 1e9:5.2f} GB  {outcome.task}"
        else:
            told = f"{outcome.error}: {outcome.message}" if outcome.error else "stands already, at the same commit"
        lines.append(f"{job.output:{width}}  {outcome.state:6}  {told}")
    states = [outcome.state for outcome in outcomes.values()]
    counted = ", ".join(f"{states.count(state)} {state}" for state in ("done", "whole", "failed", "lost"))
    return [*lines, f"{len(jobs)} models: {counted}"]
