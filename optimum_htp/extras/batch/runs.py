"""A batch: many models exported side by side, each once, however often the batch is begun anew.

What the next models need is downloaded while the present ones are exported. What came of each is in the journal; a
second run asks it, and the Hub for the present commit, and does what is not done. A model that fails stops no other.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from optimum_htp.errors import (
    ArgumentError,
    JobError,
    JobLostError,
    OptimumHTPError,
    OutputError,
    ProtectedFileError,
)
from optimum_htp.extras.batch.jobs import Job, State, is_as_asked
from optimum_htp.extras.batch.journal import JOURNAL_FILE, Journal
from optimum_htp.extras.batch.limit import Limit
from optimum_htp.extras.batch.outputs import Folder, Output
from optimum_htp.extras.batch.pushes import Pushes
from optimum_htp.extras.batch.work import Export, JobResult, export_job, fetch_job
from optimum_htp.hubs.base import HubAccess
from optimum_htp.hubs.daemons import DaemonThreads, result_of
from optimum_htp.masking import get_logger
from optimum_htp.onnxfile.inside import path_below
from optimum_htp.onnxfile.outputs import check_output, refuse_same_outputs
from optimum_htp.stamping.manifests import MANIFEST, WrittenFile

__all__ = ["JOURNAL", "check_outputs", "run_batch"]

logger = get_logger(__name__)

JOURNAL: Final = "batch.jsonl"
_GRACE: Final = 1.0  # seconds


@dataclass(frozen=True)
class _Batch:
    output: Output
    access: HubAccess
    journal: Journal
    exports: Executor
    downloads: Executor
    export: Export
    fetch: Callable[[Job, HubAccess, str | None], JobResult]
    retry_failed: bool
    read_standing: bool
    pushes: Pushes | None
    limit: Limit


def check_outputs(
    jobs: Sequence[Job],
    output: Output,
    journal: Path,
    manifest: Path | None = None,
    *,
    inputs: Sequence[str] = (),
    force: bool = False,
) -> None:
    """Refuse a journal or a manifest that would destroy a file, or that lies among the files of an export.

    Args:
        jobs: What is to be exported.
        output: Where to.
        journal: The journal.
        manifest: The manifest, where one is to be written.
        inputs: The list, or the manifest that the jobs are from.
        force: Whether they may replace files of other kinds.

    Raises:
        ProtectedFileError: One of them would.
    """
    inputs = [*inputs, *(job.model for job in jobs if Path(job.model).exists())]
    models = [output.root.resolve() / job.output for job in jobs] if isinstance(output, Folder) else []
    refuse_same_outputs(manifest, journal)
    for path, kind in ((manifest, MANIFEST), (journal, JOURNAL_FILE)):
        if path is None:
            continue
        check_output(path, kind, inputs=inputs, force=force)
        if (folder := next((model for model in models if path.resolve().is_relative_to(model)), None)) is not None:
            raise ProtectedFileError(f"{path} lies in {folder}, which an export is written to: name another output.")


def run_batch(
    jobs: Sequence[Job],
    output: Output,
    journal: Path,
    *,
    access: HubAccess,
    exports: Executor,
    downloads: Executor,
    ahead: int,
    export: Export,
    fetch: Callable[[Job, HubAccess, str | None], JobResult] = fetch_job,
    retry_failed: bool = False,
    read_standing: bool = False,
    pushes: Pushes | None = None,
    force: bool = False,
    told: Callable[[Job, JobResult], None] = lambda job, outcome: None,
    limit: Limit | None = None,
) -> dict[str, JobResult]:
    """Export models, and keep a journal of it.

    Args:
        jobs: What to export.
        output: Where they go, a folder for each.
        journal: File that says what came of each; one that is there is asked what is done, and added to.
        access: How to reach the Hub.
        exports: Does the exports, each in a process of its own; how many at a time is its business.
        downloads: Does the downloads. Threads of this process will do.
        ahead: How many models may be downloaded and not exported yet.
        export: Exports a model; called in the processes of `exports`.
        fetch: Brings what a model needs to where it is exported.
        retry_failed: Whether to export again what failed in an earlier run.
        read_standing: Whether to read the files of what stands, and to export again what has other digests than the
            journal says; without it, names, sizes and commits count.
        pushes: Pushes what is exported. What the journal says was pushed as it is asked now is not pushed again.
        force: Whether to add to a journal that is a file of another kind.
        told: Called with each job and what came of it, from any thread.
        limit: What the Hub has asked for so far.

    Returns:
        What came of each job, by its folder.

    Raises:
        ArgumentError: Another batch is writing to this journal.
        ProtectedFileError: The journal is a file of another kind, or a link that leads out of its folder.
    """
    check_output(journal, JOURNAL_FILE, force=force)
    journal.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(journal.with_name(f".{journal.name}.lock"))
    for name in (journal.name, Path(lock.lock_file).name):  # a folder of somebody else may hold links
        try:
            path_below(journal.parent, Path(name))
        except OSError as error:
            raise ProtectedFileError(f"{error}. Delete the link, or name another file with --journal.") from error
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ArgumentError(
            f"Another batch is writing to {journal}. Wait until it has ended, or name another folder."
        ) from None
    outcomes: dict[str, JobResult] = {}
    limit = limit or Limit()
    with lock, Journal(journal, force=force) as kept:
        batch = _Batch(
            output, access, kept, exports, downloads, export, fetch, retry_failed, read_standing, pushes, limit
        )
        room = threading.Semaphore(ahead)

        def work(job: Job) -> None:
            try:
                outcome = _pushed(job, _done(job, batch), batch)
            finally:
                room.release()
            outcomes[job.output] = outcome
            told(job, outcome)

        with DaemonThreads(ahead, "optimum-htp-jobs") as threads:
            running: list[Future[None]] = []
            try:
                for job in jobs:
                    while not room.acquire(timeout=0.5):  # without a timeout Windows cannot be interrupted
                        pass
                    running.append(threads.submit(work, job))
                for future in running:
                    result_of(future)
            except BaseException:  # Ctrl-C too: no export goes on without the batch that it is for
                limit.end()
                exports.shutdown(wait=False, cancel_futures=True)
                downloads.shutdown(wait=False, cancel_futures=True)
                wait(running, _GRACE)  # what has just ended is told; a download that goes on is not waited for
                raise
    return outcomes


def _done(job: Job, batch: _Batch) -> JobResult:
    """Do a job, unless it is done."""
    before = batch.journal.ends.get(job.output, {})
    if before.get("state") == State.FAILED.value and not batch.retry_failed:
        return JobResult(
            state=State.FAILED,
            error=before.get("error"),
            message=f"{before.get('message')} (in an earlier run; --retry-failed tries again)",
        )
    standing = batch.output.standing(job, before)
    good = standing if standing is not None and _is_good(job, standing, batch) else None
    exported = good["commit"] if good is not None else None
    outcome = _result(batch, batch.downloads, batch.fetch, job, batch.access, exported)
    if job.commit is not None and outcome.commit != job.commit:  # the revision has moved, or is gone
        job = replace(job, revision=job.commit)
        outcome = _result(batch, batch.downloads, batch.fetch, job, batch.access, exported)
    if outcome.state is State.UP_TO_DATE and good is not None:
        return _as_it_stands(outcome, good)
    if standing is not None and outcome.state in (State.FAILED, State.CRASHED):
        # A Hub that is away, or a token that has expired, is no news of the model: what stands is to be known as such.
        return replace(outcome, message=f"{outcome.message} What an earlier run exported stands as it was.")
    batch.journal.start(job)
    if outcome.state is State.FOUND:
        outcome = _exported(job, batch)
    batch.journal.end(job, outcome.to_entry())
    return outcome


def _is_good(job: Job, standing: Mapping[str, Any], batch: _Batch) -> bool:
    """Tell whether what stands may count as what is asked for, at its commit."""
    return is_as_asked(job, standing) and (not batch.read_standing or batch.output.is_unchanged(job, standing))


def _as_it_stands(outcome: JobResult, standing: Mapping[str, Any]) -> JobResult:
    """Return an outcome with all that is known of an export that stands; nothing of this machine is."""
    return replace(
        outcome,
        task=standing.get("task"),
        asked=standing.get("asked"),
        options=standing.get("options"),
        versions=standing.get("versions"),
        files=tuple(WrittenFile(file["name"], file["size"], file["sha256"]) for file in standing["files"]),
    )


def _exported(job: Job, batch: _Batch) -> JobResult:
    """Export a model, and see that it is where it was to be."""
    cached = replace(batch.access, force_download=False)  # it has just been downloaded
    outcome = _result(batch, batch.exports, export_job, job, batch.output, cached, batch.export)
    if outcome.state is not State.DONE:
        return outcome
    try:
        batch.output.confirm(job, outcome.to_entry())
    except OutputError as error:
        return JobResult(state=State.FAILED, error=type(error).__name__, message=str(error))
    return outcome


def _pushed(job: Job, outcome: JobResult, batch: _Batch) -> JobResult:
    """Push what a job has exported, unless that is done."""
    if batch.pushes is None or not outcome.state.is_exported:
        return outcome
    files = {file.name: file.sha256 for file in outcome.files}
    this = {"exported": outcome.commit, "files": files, "asked": batch.pushes.asked(job)}
    if outcome.state is State.UP_TO_DATE and _is_same_push(batch.journal.pushes.get(job.output), this):
        return outcome
    try:
        done = batch.limit.kept(functools.partial(batch.pushes.push, job))
    except (OptimumHTPError, OSError) as error:
        message = f"It was exported, and not pushed: {error}"
        return replace(outcome, state=State.FAILED, error=type(error).__name__, message=message)
    batch.journal.push(job, {**this, **done})
    return outcome


def _is_same_push(before: Mapping[str, Any] | None, this: Mapping[str, Any]) -> bool:
    """Tell whether an earlier push was of the same files, and as is asked now.

    An old journal does not say that: then it is pushed again, and the Hub makes no commit of what it has.
    """
    return before is not None and all(before.get(name) == value for name, value in this.items())


def _result(batch: _Batch, executor: Executor, work: Callable[..., JobResult], *arguments: Any) -> JobResult:
    """Let an executor do some work; again after the time that the Hub asks to wait."""
    return batch.limit.kept(lambda: _ended(executor.submit(work, *arguments)), lambda outcome: outcome.retry_after)


def _ended(future: Future[JobResult]) -> JobResult:
    try:
        return future.result()
    except JobLostError as error:
        return JobResult(state=State.CRASHED, error=type(error).__name__, message=str(error))
    except JobError as error:
        return JobResult(state=State.FAILED, error=type(error).__name__, message=str(error))
