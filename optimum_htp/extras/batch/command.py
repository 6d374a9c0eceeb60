"""`optimum-cli htp batch`: exports many models, each in a separate process."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.cli.base import Command
from optimum_htp.cli.export import NOT_OPTIONS, HTPExportCommand
from optimum_htp.cli.options import add_force_argument, add_jobs_argument, add_json_argument
from optimum_htp.cli.parser import UNAVAILABLE, integer, number, path
from optimum_htp.extras.push.command import add_push_options, privacy
from optimum_htp.masking import get_logger

if TYPE_CHECKING:
    from optimum_htp.extras.batch.cluster import ClusterExecutor
    from optimum_htp.extras.batch.jobs import Job, State
    from optimum_htp.extras.batch.outputs import Output, Pushes
    from optimum_htp.extras.batch.processes import ProcessExecutor
    from optimum_htp.extras.batch.runs import Limit
    from optimum_htp.extras.batch.work import JobResult
    from optimum_htp.hubs.base import HubAccess
    from optimum_htp.stamping.manifests import Manifest

__all__ = ["BatchCommand"]

# Arguments of an export that a list sets per model, or that a batch does not have.
logger = get_logger(__name__)
_NOT_COMMON: Final = {*NOT_OPTIONS, "help", "revision"}
_ACCESS: Final = ("cache_dir", "local_files_only", "force_download")
_DIFFERENT: Final = 3
_LOOKUPS: Final = 8  # parallel lookups, if the workers download
_UNITS: Final = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


class BatchCommand(Command):
    """Exports the models of a list. If a model fails, the others are still exported."""

    examples = ("htp batch models.txt -o out/ --jobs 2 --memory 8GB", "htp batch --author org -o out/ --limit 10")
    exit_codes = "0 done, 1 a model failed or an error, 2 wrong arguments, 3 a file differs, 130 interrupted"

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare our arguments, and those of an export, which apply to each model."""
        parser.add_argument(
            "list",
            nargs="?",
            metavar="LIST",
            help="Text file with one model per line (NAME, ORG/NAME, or a JSON object), or - for standard input.",
        )
        parser.add_argument(
            "-o",
            "--output",
            required=True,
            metavar="FOLDER",
            help="Folder, or location such as s3://bucket/prefix, to write to: one folder per model.",
        )
        group = parser.add_argument_group("Instead of LIST")
        sources = group.add_mutually_exclusive_group()
        sources.add_argument("--collection", metavar="ORG/SLUG", help="Models of a collection.")
        sources.add_argument("--author", help="Models of a user or an organization.")
        sources.add_argument(
            "--from-manifest",
            metavar="FILE",
            help="Models of a manifest, at the recorded commits; exit code 3 if any file differs.",
        )
        group.add_argument("--filter", action="append", metavar="TAG", help="With --author: required tag; repeatable.")
        group.add_argument(
            "--limit", type=integer(1), metavar="N", help="With --author: only the N most downloaded models."
        )
        group = parser.add_argument_group("Batch arguments")
        group.add_argument(
            "--manifest", type=path, metavar="FILE", help="Also write a manifest: files, digests and commits."
        )
        group.add_argument(
            "--dask",
            metavar="ADDRESS",
            help="Export on this Dask cluster: address of the scheduler, or scheduler file.",
        )
        group.add_argument(
            "--journal",
            type=path,
            metavar="FILE",
            help="File for the results (default: batch.jsonl in the output folder, or in the current folder if the "
            "output is a URL).",
        )
        add_force_argument(group)
        add_jobs_argument(group, cores=2)
        group.add_argument("--timeout", type=number(positive=True), metavar="SECONDS", help="Time limit of an export.")
        group.add_argument("--memory", type=_bytes, metavar="SIZE", help="Memory limit of an export, such as 8GB.")
        group.add_argument("--retry-failed", action="store_true", help="Export failed models of an earlier run again.")
        add_json_argument(group)
        group = parser.add_argument_group("Push")
        group.add_argument(
            "--push-to-hub",
            metavar="REPO",
            help="Push each export to its own repo: REPO is a pattern with {name} and optionally {org} of the model; "
            "an owner alone means OWNER/{name}-onnx.",
        )
        add_push_options(group)
        exports = ArgumentParser(add_help=False)
        HTPExportCommand.parse_args(exports)
        group = parser.add_argument_group("Arguments for each model")
        for_each = [action for action in exports._actions if action.dest not in _NOT_COMMON]
        for action in for_each:
            group._add_action(action)
        parser.set_defaults(for_each=[action.dest for action in for_each])
        parser.set_defaults(**{UNAVAILABLE: exports.get_default(UNAVAILABLE)})

    def execute(self) -> None:
        """Export with a progress bar; exit with 1 if a model failed."""
        from huggingface_hub.utils import disable_progress_bars
        from tqdm import tqdm

        from optimum_htp.cli.display import is_hidden, show
        from optimum_htp.errors import ArgumentError
        from optimum_htp.export.exporter import HTPExporter
        from optimum_htp.extras.batch.jobs import refuse_ambiguous
        from optimum_htp.extras.batch.manifest import compared, differences, manifest_of
        from optimum_htp.extras.batch.outputs import Folder, output_at
        from optimum_htp.extras.batch.runs import JOURNAL, Batch, Limit, check_outputs
        from optimum_htp.extras.batch.work import fetch_job, locate_job
        from optimum_htp.hubs.base import HubAccess
        from optimum_htp.hubs.daemons import DaemonThreads
        from optimum_htp.report.texts import printable
        from optimum_htp.stamping.manifests import read_manifest

        sources = [self.args.list, self.args.author, self.args.collection, self.args.from_manifest]
        if sum(source is not None for source in sources) != 1:
            raise ArgumentError("Pass one of LIST, --collection, --author and --from-manifest.")
        options = {name: getattr(self.args, name) for name in self.args.for_each}
        access = HubAccess(**{name: options.pop(name) for name in _ACCESS})
        reproduced = read_manifest(Path(self.args.from_manifest)) if self.args.from_manifest else None
        limit = Limit()
        jobs = _jobs(self.args, options, access, limit) if reproduced is None else _jobs_again(reproduced, options)
        output = output_at(self.args.output)
        if isinstance(output, Folder):
            refuse_ambiguous(jobs, output.root)
        if self.args.dask is not None:
            jobs = [_for_workers(job) for job in jobs]
        journal = self.args.journal or (output.root if isinstance(output, Folder) else Path()) / JOURNAL
        if self.args.manifest is not None and not isinstance(output, Folder):
            raise ArgumentError(f"--manifest requires a local output folder, and {self.args.output} is not one.")
        named = [name for name in (self.args.list, self.args.from_manifest) if name not in (None, "-")]
        check_outputs(jobs, output, journal, self.args.manifest, inputs=named, force=self.args.force)
        pushes = _pushes(self.args, jobs, output) if self.args.push_to_hub is not None else None
        disable_progress_bars()  # the batch has one bar for all models
        outcomes: dict[str, JobResult] = {}
        with (
            self._reporting_interrupts(jobs, outcomes),
            _executor(self.args) as exports,
            DaemonThreads(1 if self.args.dask is None else _LOOKUPS) as downloads,
            tqdm(total=len(jobs), unit="model", disable=is_hidden()) as bar,
        ):

            def record(job: Job, outcome: JobResult) -> None:
                outcomes[job.output] = outcome
                bar.set_postfix_str(printable(job.output), refresh=False)
                bar.update()

            Batch(
                output,
                journal,
                access=access if self.args.dask is None else HubAccess(local_files_only=access.local_files_only),
                exports=exports,
                downloads=downloads,
                ahead=exports.slots + 1,
                export=HTPExporter().export,
                fetch=fetch_job if self.args.dask is None else locate_job,
                retry_failed=self.args.retry_failed,
                read_standing=self.args.manifest is not None or reproduced is not None,
                pushes=pushes,
                force=self.args.force,
                on_result=record,
                limit=limit,
            ).run(jobs)
        if self.args.manifest is not None and isinstance(output, Folder):
            manifest_of(jobs, outcomes, output.root).write(self.args.manifest, force=self.args.force)
        different = [] if reproduced is None else differences(reproduced, outcomes)
        failed = self._report(jobs, outcomes, {} if reproduced is None else {"different": different})
        if reproduced is not None and not self.args.json:
            for line in compared(reproduced, different):
                show(line)
        if failed or different:
            raise SystemExit(1 if failed else _DIFFERENT)

    @contextlib.contextmanager
    def _reporting_interrupts(self, jobs: Sequence[Job], outcomes: Mapping[str, JobResult]) -> Iterator[None]:
        """Report the finished models after a signal."""
        try:
            yield
        except KeyboardInterrupt:
            with self.stop.held_back():
                self._report([job for job in jobs if job.output in outcomes], outcomes, {"interrupted": True})
            raise

    def _report(self, jobs: Sequence[Job], outcomes: Mapping[str, JobResult], more: Mapping[str, Any]) -> int:
        """Report the results; return the number of models that failed."""
        from optimum_htp.cli.display import show, show_json

        failed = sum(not outcome.state.is_exported for outcome in outcomes.values())
        if self.args.json:
            models = [{"model": job.model, "output": job.output, **outcomes[job.output].to_entry()} for job in jobs]
            show_json({"models": models, "failed": failed, **more})
        else:
            for line in _table(jobs, outcomes):
                show(line)
        return failed


def _pushes(args: Namespace, jobs: Sequence[Job], output: Output) -> Pushes:
    """Return the object that pushes the exports."""
    from optimum_htp.errors import ArgumentError
    from optimum_htp.extras.batch.outputs import Folder, Pushes, repos_of
    from optimum_htp.hubs.base import HubAccess

    if not isinstance(output, Folder):
        raise ArgumentError(f"--push-to-hub requires a local output folder, and {args.output} is not one.")
    return Pushes(
        output.root,
        repos_of(jobs, args.push_to_hub),
        HubAccess(cache_dir=args.cache_dir),
        private=privacy(args),
        create_pr=args.create_pr,
        layout=args.layout,
    )


def _for_workers(job: Job) -> Job:
    """Return a job that is valid in any working folder: a local model gets its absolute path."""
    path = Path(job.model)
    return replace(job, model=str(path.absolute())) if not job.of_hub and path.exists() else job


def _executor(args: Namespace) -> ProcessExecutor | ClusterExecutor:
    """Return the executor of the exports: processes of this machine, or a cluster."""
    from optimum_htp.extras.batch.cluster import ClusterExecutor
    from optimum_htp.extras.batch.processes import ProcessExecutor

    if args.dask is not None:
        return ClusterExecutor(args.dask, timeout=args.timeout, memory=args.memory)
    slots = args.jobs
    threads = max(1, (os.cpu_count() or 1) // slots)
    return ProcessExecutor(
        slots, timeout=args.timeout, memory=args.memory, preload="optimum_htp.export.preload", threads=threads
    )


def _jobs(args: Namespace, options: Mapping[str, Any], access: HubAccess, limit: Limit) -> list[Job]:
    """Return the jobs of a list, a collection or an author; wait if the Hub limits requests."""
    from optimum_htp.errors import ArgumentError
    from optimum_htp.extras.batch.jobs import jobs_from_lines, jobs_of_hub, lines_of_text, read_jobs
    from optimum_htp.hubs.huggingface.listings import models_of_author, models_of_collection

    if args.author is None and (args.filter or args.limit is not None):
        raise ArgumentError("--filter and --limit require --author.")
    if args.author is not None:
        names = limit.kept(lambda: models_of_author(args.author, args.filter or (), args.limit, access))
        return jobs_of_hub(names, f"the models of {args.author}", options)
    if args.collection is not None:
        names, others = limit.kept(lambda: models_of_collection(args.collection, access))
        if others:
            logger.warning("%s: %d items are not models and are skipped.", args.collection, others)
        return jobs_of_hub(names, f"the collection {args.collection}", options)
    if args.list == "-":
        return jobs_from_lines(lines_of_text(sys.stdin.read(), "standard input"), "standard input", options)
    return read_jobs(Path(args.list), options)


def _jobs_again(manifest: Manifest, options: Mapping[str, Any]) -> list[Job]:
    """Return the jobs of a manifest. Its options replace those of the command line."""
    from optimum_htp.extras.batch.jobs import job_of

    common = {name: value for name, value in options.items() if name != "task"}
    jobs = map(job_of, manifest.models)
    return [replace(job, options={**common, **job.options}) for job in jobs]


def _bytes(text: str) -> int:
    """Parse `8GB`, `500M` or a number of bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)i?B?", text.strip(), re.IGNORECASE)
    if match is None or not float(match[1]):
        raise ArgumentTypeError(f"{text!r} is not an amount of memory such as 8GB or 500MB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def _shown(state: State) -> str:
    return "exported" if state.value == "done" else state.value.replace("_", " ")


def _table(jobs: Sequence[Job], outcomes: Mapping[str, JobResult]) -> list[str]:
    """Return a line per model, and a summary."""
    from optimum_htp.cli.display import amount
    from optimum_htp.extras.batch.jobs import State

    width = max((len(job.output) for job in jobs), default=0)
    lines = []
    for job in jobs:
        outcome = outcomes[job.output]
        if outcome.state is State.DONE:
            text = f"{outcome.seconds:6.1f} s  {outcome.peak_memory / 1e9:5.2f} GB  {outcome.task}"
        else:
            text = f"{outcome.error}: {outcome.message}" if outcome.error else "exported earlier at the same commit"
        lines.append(f"{job.output:{width}}  {_shown(outcome.state):10}  {text}")
    states = [outcome.state for outcome in outcomes.values()]
    shown = (State.DONE, State.UP_TO_DATE, State.FAILED, State.CRASHED)
    counted = ", ".join(f"{states.count(state)} {_shown(state)}" for state in shown)
    return [*lines, f"{amount(len(jobs), 'model')}: {counted}"]
