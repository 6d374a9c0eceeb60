"""`optimum-cli htp batch`: exports many models, each in a process of its own."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from argparse import SUPPRESS, Action, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.cli.base import Command
from optimum_htp.cli.export import NOT_OPTIONS, HTPExportCommand
from optimum_htp.cli.files import add_force_argument
from optimum_htp.extras.push.command import add_push_options, privacy

if TYPE_CHECKING:
    from optimum_htp.extras.batch.cluster import ClusterExecutor
    from optimum_htp.extras.batch.jobs import Job, State
    from optimum_htp.extras.batch.limit import Limit
    from optimum_htp.extras.batch.outputs import Output
    from optimum_htp.extras.batch.processes import ProcessExecutor
    from optimum_htp.extras.batch.pushes import Pushes
    from optimum_htp.extras.batch.work import JobResult
    from optimum_htp.hubs.base import HubAccess
    from optimum_htp.stamping.manifests import Manifest

__all__ = ["BatchCommand"]

# Of an export's arguments: what a list says of each model, and what is said of the whole batch.
_NOT_COMMON: Final = {*NOT_OPTIONS, "help", "revision"}
_ACCESS: Final = ("cache_dir", "local_files_only", "force_download")
_DIFFERENT: Final = 3
_LOOKUPS: Final = 8  # at a time, where others download
_UNITS: Final = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


class BatchCommand(Command):
    """Exports the models of a list; a model that fails stops no other."""

    examples = ("htp batch models.txt out/ --jobs 2 --memory 8GB", "htp batch --author org out/ --limit 10")
    exit_codes = "0 done, 1 a model failed or an error, 2 wrong arguments, 3 a file differs, 130 interrupted"

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments: ours, and those of an export, which are for each model."""
        parser.add_argument(
            "list", metavar="LIST", help="Text file with a model a line (NAME, ORG/NAME, or JSON), or - for input."
        )
        parser.add_argument(
            "output", metavar="OUT", help="Folder, or location such as s3://bucket/prefix, that gets a folder a model."
        )
        group = parser.add_argument_group("In place of a list")
        sources = group.add_mutually_exclusive_group()
        sources.add_argument("--collection", action=_InPlaceOfAList, metavar="SLUG", help="Models of a collection.")
        sources.add_argument("--author", action=_InPlaceOfAList, help="Models of a user or an organization.")
        sources.add_argument(
            "--from-manifest",
            action=_InPlaceOfAList,
            metavar="FILE",
            help="What a manifest tells of, at its commits; exit with 3 where a file has other bytes then.",
        )
        group.add_argument("--filter", action="append", metavar="TAG", help="With --author: a tag; may be repeated.")
        group.add_argument("--limit", type=int, help="With --author: the most downloaded ones, so many.")
        group = parser.add_argument_group("Batch arguments")
        group.add_argument(
            "--manifest", type=Path, metavar="FILE", help="Write what was exported, with digests, from which commits."
        )
        group.add_argument(
            "--dask",
            metavar="ADDRESS",
            help="Export on the workers of this Dask cluster: its scheduler, or scheduler file.",
        )
        group.add_argument(
            "--journal", type=Path, metavar="FILE", help="What came of each (OUT/batch.jsonl, or here)."
        )
        add_force_argument(group)
        group.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 1) // 2), help="Exports at a time.")
        group.add_argument("--timeout", type=float, help="Seconds that a model may take.")
        group.add_argument("--memory", type=_bytes, help="Memory that an export may use, such as 8GB.")
        group.add_argument("--retry-failed", action="store_true", help="Export again what failed in an earlier run.")
        group.add_argument("--json", action="store_true", help="Print one JSON document.")
        group = parser.add_argument_group("Push")
        group.add_argument(
            "--push-to-hub",
            metavar="REPO",
            help="Push each export to a repo of its own: REPO has {name} in it, and perhaps {org}, for those of the "
            "model; an owner alone means OWNER/{name}-onnx.",
        )
        add_push_options(group)
        exports = ArgumentParser(add_help=False)
        HTPExportCommand.parse_args(exports)
        group = parser.add_argument_group("Arguments for each model")
        for_each = [action for action in exports._actions if action.dest not in _NOT_COMMON]
        for action in for_each:
            group._add_action(action)
        parser.set_defaults(for_each=[action.dest for action in for_each])

    def execute(self) -> None:
        """Export, with a progress bar; exit with 1 where a model failed."""
        from huggingface_hub.utils import disable_progress_bars
        from tqdm import tqdm

        from optimum_htp.cli.display import show
        from optimum_htp.errors import ArgumentError
        from optimum_htp.export.exporter import HTPExporter
        from optimum_htp.extras.batch.jobs import refuse_ambiguous
        from optimum_htp.extras.batch.limit import Limit
        from optimum_htp.extras.batch.manifest import differences, manifest_of
        from optimum_htp.extras.batch.outputs import Folder, output_at
        from optimum_htp.extras.batch.runs import JOURNAL, check_outputs, run_batch
        from optimum_htp.extras.batch.work import fetch_job, locate_job
        from optimum_htp.hubs.base import HubAccess
        from optimum_htp.hubs.daemons import DaemonThreads
        from optimum_htp.report.texts import printable
        from optimum_htp.stamping.manifests import read_manifest

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
            raise ArgumentError(f"--manifest tells of files that are here, and {self.args.output} is not.")
        named = [name for name in (self.args.list, self.args.from_manifest) if name not in (None, "-")]
        check_outputs(jobs, output, journal, self.args.manifest, inputs=named, force=self.args.force)
        pushes = _pushes(self.args, jobs, output) if self.args.push_to_hub is not None else None
        disable_progress_bars()  # those of downloads: there is one for the batch
        outcomes: dict[str, JobResult] = {}
        with (
            self._telling_what_was_done(jobs, outcomes),
            _executor(self.args) as exports,
            DaemonThreads(1 if self.args.dask is None else _LOOKUPS) as downloads,
            tqdm(total=len(jobs), unit="model", disable=None) as bar,
        ):

            def told(job: Job, outcome: JobResult) -> None:
                outcomes[job.output] = outcome
                bar.set_postfix_str(printable(job.output), refresh=False)
                bar.update()

            run_batch(
                jobs,
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
                told=told,
                limit=limit,
            )
        if self.args.manifest is not None and isinstance(output, Folder):
            manifest_of(jobs, outcomes, output.root).write(self.args.manifest, force=self.args.force)
        different = [] if reproduced is None else differences(reproduced, outcomes)
        failed = self._report(jobs, outcomes, {} if reproduced is None else {"different": different})
        if reproduced is not None and not self.args.json:
            for line in _compared(reproduced, different):
                show(line)
        if failed or different:
            raise SystemExit(1 if failed else _DIFFERENT)

    @contextlib.contextmanager
    def _telling_what_was_done(self, jobs: Sequence[Job], outcomes: Mapping[str, JobResult]) -> Iterator[None]:
        """Report on what came to its end before a signal; the journal has the rest."""
        try:
            yield
        except KeyboardInterrupt:
            with self.stop.held_back():
                self._report([job for job in jobs if job.output in outcomes], outcomes, {"interrupted": True})
            raise

    def _report(self, jobs: Sequence[Job], outcomes: Mapping[str, JobResult], more: Mapping[str, Any]) -> int:
        """Tell what came of jobs; return how many have failed."""
        from optimum_htp.cli.display import show, show_json

        failed = sum(not outcome.state.is_exported for outcome in outcomes.values())
        if self.args.json:
            models = [_document(job, outcomes[job.output]) for job in jobs]
            show_json({"models": models, "failed": failed, **more})
        else:
            for line in _table(jobs, outcomes):
                show(line)
        return failed


def _pushes(args: Namespace, jobs: Sequence[Job], output: Output) -> Pushes:
    """Return what pushes the exports.

    Raises:
        ArgumentError: Two models would go into one repo, or the files are not here.
    """
    from optimum_htp.errors import ArgumentError
    from optimum_htp.extras.batch.outputs import Folder
    from optimum_htp.extras.batch.pushes import Pushes, repos_of
    from optimum_htp.hubs.base import HubAccess

    if not isinstance(output, Folder):
        raise ArgumentError(f"--push-to-hub pushes files that are here, and those of {args.output} are not.")
    return Pushes(
        output.root,
        repos_of(jobs, args.push_to_hub),
        HubAccess(cache_dir=args.cache_dir),
        private=privacy(args),
        create_pr=args.create_pr,
        layout=args.layout,
    )


def _for_workers(job: Job) -> Job:
    """Return a job that means the same in another folder than this process's: a local model has its full path."""
    path = Path(job.model)
    return replace(job, model=str(path.absolute())) if not job.of_hub and path.exists() else job


def _executor(args: Namespace) -> ProcessExecutor | ClusterExecutor:
    """Return what does the exports: processes of this machine, or a cluster."""
    from optimum_htp.extras.batch.cluster import ClusterExecutor
    from optimum_htp.extras.batch.processes import ProcessExecutor

    if args.dask is not None:
        return ClusterExecutor(args.dask, timeout=args.timeout, memory=args.memory)
    slots = max(1, args.jobs)
    threads = max(1, (os.cpu_count() or 1) // slots)
    return ProcessExecutor(
        slots, timeout=args.timeout, memory=args.memory, preload="optimum_htp.export.preload", threads=threads
    )


class _InPlaceOfAList(Action):
    """An option that says which models there are: `LIST` is not asked for then, wherever the option stands."""

    def __call__(
        self, parser: ArgumentParser, namespace: Namespace, values: Any, option_string: str | None = None
    ) -> None:
        setattr(namespace, self.dest, values)
        places = {action.dest: action for action in parser._actions if action.dest in ("list", "output")}
        if getattr(namespace, "output", None) is not None:
            parser.error(f"{option_string} stands in place of LIST: give one of them")
        missing = "list"
        if getattr(namespace, "list", None) is not None:  # OUT came first, and was taken for it
            namespace.output, namespace.list, missing = namespace.list, None, "output"
        places[missing].nargs, places[missing].required = SUPPRESS, False


def _jobs(args: Namespace, options: Mapping[str, Any], access: HubAccess, limit: Limit) -> list[Job]:
    """Return what a list, a collection or an author says; the Hub is waited for where it limits requests."""
    from optimum_htp.cli.display import show_error
    from optimum_htp.errors import ArgumentError
    from optimum_htp.extras.batch.jobs import jobs_from_lines, jobs_of_hub, read_jobs
    from optimum_htp.hubs.huggingface.listings import models_of_author, models_of_collection

    if args.author is None and (args.filter or args.limit is not None):
        raise ArgumentError("--filter and --limit choose among the models of --author: give that too.")
    if args.limit is not None and args.limit < 1:
        raise ArgumentError(f"--limit is at least 1, not {args.limit}.")
    if args.author is not None:
        names = limit.kept(lambda: models_of_author(args.author, args.filter or (), args.limit, access))
        return jobs_of_hub(names, f"the models of {args.author}", options)
    if args.collection is not None:
        names, others = limit.kept(lambda: models_of_collection(args.collection, access))
        if others:
            show_error(f"{args.collection}: {others} of its items are no models, and left out")
        return jobs_of_hub(names, f"the collection {args.collection}", options)
    if args.list == "-":
        return jobs_from_lines(sys.stdin, "standard input", options)
    return read_jobs(Path(args.list), options)


def _jobs_again(manifest: Manifest, options: Mapping[str, Any]) -> list[Job]:
    """Return what makes a manifest's files again. What it says of an export comes before what the command says."""
    from optimum_htp.extras.batch.jobs import job_of

    common = {name: value for name, value in options.items() if name != "task"}
    jobs = map(job_of, manifest.models)
    return [replace(job, options={**common, **job.options}) for job in jobs]


def _compared(manifest: Manifest, different: Sequence[str]) -> list[str]:
    """Return what is said of files that were to be the same."""
    if not different:
        return [f"{len(manifest.files())} files are the manifest's, byte for byte"]
    from optimum_htp.extras.batch.work import versions_here

    here = versions_here()
    models = [model for model in manifest.models if any(name.startswith(f"{model.output}/") for name in different)]
    theirs = [manifest.versions_of(model) for model in models]
    others = {
        f"{name} {version}": None
        for versions in theirs
        for name, version in versions.items()
        if here.get(name) != version
    }
    if others:
        why = f"it was written with {', '.join(others)}"
    elif all(theirs) and all(model.options is not None for model in models):
        why = "is SOURCE_DATE_EPOCH what it was?"
    else:
        why = "it does not say how they were exported, which nobody had noted; a manifest of a new export does"
    return [*(f"{name}: DIFFERS from the manifest" for name in different), f"{len(different)} files differ: {why}"]


def _bytes(text: str) -> int:
    """Parse `8GB`, `500M` or a number of bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)i?B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise ArgumentTypeError(f"{text!r} is no amount of memory: give one such as 8GB or 500MB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def _document(job: Job, outcome: JobResult) -> dict[str, Any]:
    return {"model": job.model, "output": job.output, **outcome.to_entry()}


def _shown(state: State) -> str:
    return state.value.replace("_", " ")


def _table(jobs: Sequence[Job], outcomes: Mapping[str, JobResult]) -> list[str]:
    """Return a line for each model, and one for all."""
    from optimum_htp.extras.batch.jobs import State

    width = max((len(job.output) for job in jobs), default=0)
    lines = []
    for job in jobs:
        outcome = outcomes[job.output]
        if outcome.state is State.DONE:
            told = f"{outcome.seconds:6.1f} s  {outcome.peak_memory / 1e9:5.2f} GB  {outcome.task}"
        else:
            told = f"{outcome.error}: {outcome.message}" if outcome.error else "stands already, at the same commit"
        lines.append(f"{job.output:{width}}  {_shown(outcome.state):10}  {told}")
    states = [outcome.state for outcome in outcomes.values()]
    shown = (State.DONE, State.UP_TO_DATE, State.FAILED, State.CRASHED)
    counted = ", ".join(f"{states.count(state)} {_shown(state)}" for state in shown)
    return [*lines, f"{len(jobs)} models: {counted}"]
