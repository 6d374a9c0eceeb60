"""Runs a batch: exports many models in parallel, and resumes after an interruption.

The next models are downloaded while the present ones are exported. The journal records the results. A second run reads
the journal, requests the present commits from the Hub, and exports the rest. If a model fails, the others continue.

If a Hub limits requests, all jobs wait as long as it requires, and then continue. Commands for one model fail instead,
if the wait is longer than `OPTIMUM_HTP_TIMEOUT`.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, wait
from contextlib import AbstractContextManager
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from filelock import FileLock, Timeout

from optimum_htp.errors import (
    ArgumentError,
    JobError,
    JobLostError,
    OptimumHTPError,
    OutputError,
    ProtectedFileError,
    RateLimitedError,
)
from optimum_htp.extras.batch.jobs import Job, State, is_as_asked
from optimum_htp.extras.batch.journal import JOURNAL_FILE, Journal
from optimum_htp.extras.batch.outputs import Folder, Output, Pushes
from optimum_htp.extras.batch.work import A_MINUTE, Export, JobResult, export_job, fetch_job
from optimum_htp.hubs.base import HubAccess
from optimum_htp.hubs.daemons import DaemonThreads, result_of
from optimum_htp.masking import get_logger
from optimum_htp.onnxfile.inside import path_below
from optimum_htp.onnxfile.outputs import check_output, refuse_same_outputs
from optimum_htp.stamping.manifests import MANIFEST, WrittenFile

__all__ = ["JOURNAL", "Limit", "check_outputs", "Batch"]

logger = get_logger(__name__)

JOURNAL: Final = "batch.jsonl"
_GRACE: Final = 1.0  # seconds to record results after an interruption
_MOST_WAITS: Final = 20  # per request

T = TypeVar("T")


class Limit:
    """The time before which no job of a batch may send a request. All jobs share it."""

    def __init__(self) -> None:
        self._until = 0.0
        self._ended = threading.Event()

    def kept(self, ask: Callable[[], T], asked_to_wait: Callable[[T], float | None] = lambda result: None) -> T:
        """Return the result of a request; repeat it after each wait that the Hub requires.

        `asked_to_wait` returns the seconds to wait from a result, for a request that raises no `RateLimitedError`.
        """
        for _ in range(_MOST_WAITS):
            self._wait()
            try:
                result = ask()
                seconds = asked_to_wait(result)
                if seconds is None:
                    return result
            except RateLimitedError as error:
                seconds = error.retry_after or A_MINUTE
            self._hold(seconds)
        self._wait()
        return ask()

    def end(self) -> None:
        """End all waits."""
        self._ended.set()

    def _hold(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        if until > self._until + 1:
            logger.warning("The Hub limits requests: all models wait %.0f s.", seconds)
        self._until = max(self._until, until)

    def _wait(self) -> None:
        """Return when requests are allowed, or the batch is interrupted."""
        while (left := self._until - time.monotonic()) > 0 and not self._ended.wait(left):
            pass


def check_outputs(
    jobs: Sequence[Job], output: Output, journal: Path, manifest: Path | None, *, inputs: Sequence[str], force: bool
) -> None:
    """Reject a journal or a manifest that would replace an input or another file, or that is in an export's folder."""
    inputs = [*inputs, *(job.model for job in jobs if Path(job.model).exists())]
    models = [output.root.resolve() / job.output for job in jobs] if isinstance(output, Folder) else []
    refuse_same_outputs(manifest, journal)
    for path, kind in ((manifest, MANIFEST), (journal, JOURNAL_FILE)):
        if path is None:
            continue
        check_output(path, kind, inputs=inputs, force=force)
        if (folder := next((model for model in models if path.resolve().is_relative_to(model)), None)) is not None:
            raise ProtectedFileError(f"{path} is in {folder}, the folder of an export. Pass another file.")


@dataclass
class Batch:
    """Exports models, and records the results in a journal. An existing journal is read and extended.

    Attributes:
        exports: Executor of the exports; it limits their number. It calls `export`.
        downloads: Executor of the downloads, for example threads of this process. It calls `fetch`.
        ahead: Maximum number of models that are downloaded and not exported yet.
        retry_failed: Whether to export models again that failed in an earlier run.
        read_standing: Whether to read existing files, and to export models again if a digest differs from the journal.
            Otherwise, names, sizes and commits are compared.
        pushes: Pushes the exports. A push that the journal records with the same options is not repeated.
        force: Whether to append to a journal that is a file of another kind.
        on_result: Called with each job and its result, from any thread.
        limit: The rate limits that the Hub has reported so far.
    """

    output: Output
    journal_file: Path
    _: KW_ONLY
    access: HubAccess
    exports: Executor
    downloads: Executor
    ahead: int
    export: Export
    fetch: Callable[[Job, HubAccess, str | None], JobResult] = fetch_job
    retry_failed: bool = False
    read_standing: bool = False
    pushes: Pushes | None = None
    force: bool = False
    on_result: Callable[[Job, JobResult], None] = lambda job, outcome: None
    limit: Limit = field(default_factory=Limit)
    journal: Journal = field(init=False)

    def run(self, jobs: Sequence[Job]) -> dict[str, JobResult]:
        """Export the models; return the result of each job, by its folder.

        Raises:
            ArgumentError: Another batch writes to the journal.
            ProtectedFileError: The journal is a file of another kind, or a link out of its folder.
        """
        outcomes: dict[str, JobResult] = {}
        free = threading.Semaphore(self.ahead)

        def work(job: Job) -> None:
            try:
                outcome = self._pushed(job, self._done(job))
            finally:
                free.release()
            outcomes[job.output] = outcome
            self.on_result(job, outcome)

        with (
            self._locked(),
            Journal(self.journal_file, force=self.force) as self.journal,
            DaemonThreads(self.ahead, "optimum-htp-jobs") as threads,
        ):
            running: list[Future[None]] = []
            try:
                for job in jobs:
                    while not free.acquire(timeout=0.5):  # a wait without a timeout cannot be interrupted on Windows
                        pass
                    running.append(threads.submit(work, job))
                for future in running:
                    result_of(future)
            except BaseException:  # Ctrl-C too: no export continues without its batch
                self.limit.end()
                self.exports.shutdown(wait=False, cancel_futures=True)
                self.downloads.shutdown(wait=False, cancel_futures=True)
                wait(running, _GRACE)  # record results; do not wait for downloads
                raise
        return outcomes

    def _locked(self) -> AbstractContextManager[object]:
        """Lock the journal, after a check that it can be written."""
        journal = self.journal_file
        check_output(journal, JOURNAL_FILE, force=self.force)
        journal.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(journal.with_name(f".{journal.name}.lock"))
        for name in (journal.name, Path(lock.lock_file).name):  # a folder of another user can contain links
            try:
                path_below(journal.parent, Path(name))
            except OSError as error:
                raise ProtectedFileError(f"{error}. Delete the link, or pass another file with --journal.") from error
        try:
            return lock.acquire(timeout=0)
        except Timeout:
            raise ArgumentError(
                f"Another batch writes to {journal}. Wait until it ends, or pass another file with --journal."
            ) from None

    def _done(self, job: Job) -> JobResult:
        """Run a job, unless its export is up to date."""
        before = self.journal.ends.get(job.output, {})
        if before.get("state") == State.FAILED.value and not self.retry_failed:
            return JobResult(
                state=State.FAILED,
                error=before.get("error"),
                message=f"{before.get('message')} (in an earlier run; pass --retry-failed to try again)",
            )
        standing = self.output.standing(job, before)
        good = standing if standing is not None and self._is_good(job, standing) else None
        exported = good["commit"] if good is not None else None
        outcome = self._result(self.downloads, self.fetch, job, self.access, exported)
        if job.commit is not None and outcome.commit != job.commit:  # the revision has moved or was deleted
            job = replace(job, revision=job.commit)
            outcome = self._result(self.downloads, self.fetch, job, self.access, exported)
        if outcome.state is State.UP_TO_DATE and good is not None:
            return _as_recorded(outcome, good)
        if standing is not None and outcome.state in (State.FAILED, State.CRASHED):
            # An unreachable Hub or an expired token does not concern the model. The journal keeps the earlier result.
            return replace(outcome, message=f"{outcome.message} The export of an earlier run is unchanged.")
        self.journal.start(job)
        if outcome.state is State.FOUND:
            outcome = self._exported(job)
        self.journal.end(job, outcome.to_entry())
        return outcome

    def _is_good(self, job: Job, standing: Mapping[str, Any]) -> bool:
        """Return whether an existing export has the options of the job, and unchanged files if these are read."""
        return is_as_asked(job, standing) and (not self.read_standing or self.output.is_unchanged(job, standing))

    def _exported(self, job: Job) -> JobResult:
        """Export a model, and check that its files exist."""
        cached = replace(self.access, force_download=False)  # it was just downloaded
        outcome = self._result(self.exports, export_job, job, self.output, cached, self.export)
        if outcome.state is not State.DONE:
            return outcome
        try:
            self.output.confirm(job, outcome.to_entry())
        except OutputError as error:
            return JobResult.failed(error)
        return outcome

    def _pushed(self, job: Job, outcome: JobResult) -> JobResult:
        """Push the export of a job, unless an earlier run has."""
        if self.pushes is None or not outcome.state.is_exported:
            return outcome
        files = {file.name: file.sha256 for file in outcome.files}
        this = {"exported": outcome.commit, "files": files, "asked": self.pushes.asked(job)}
        if outcome.state is State.UP_TO_DATE and _is_same_push(self.journal.pushes.get(job.output), this):
            return outcome
        try:
            done = self.limit.kept(functools.partial(self.pushes.push, job))
        except (OptimumHTPError, OSError) as error:
            message = f"The model was exported, but not pushed: {error}"
            return replace(outcome, state=State.FAILED, error=type(error).__name__, message=message)
        self.journal.push(job, {**this, **done})
        return outcome

    def _result(self, executor: Executor, work: Callable[..., JobResult], *arguments: Any) -> JobResult:
        """Run work on an executor; repeat it after a wait that the Hub requires."""
        return self.limit.kept(lambda: _ended(executor.submit(work, *arguments)), lambda outcome: outcome.retry_after)


def _as_recorded(outcome: JobResult, standing: Mapping[str, Any]) -> JobResult:
    """Return a result with the recorded fields of an existing export."""
    return replace(
        outcome,
        task=standing.get("task"),
        asked=standing.get("asked"),
        options=standing.get("options"),
        versions=standing.get("versions"),
        files=tuple(WrittenFile(file["name"], file["size"], file["sha256"]) for file in standing["files"]),
    )


def _is_same_push(before: Mapping[str, Any] | None, this: Mapping[str, Any]) -> bool:
    """Return whether an earlier push had the same files and options.

    An old journal does not record them. The push is then repeated, and the Hub creates no commit for unchanged files.
    """
    return before is not None and all(before.get(name) == value for name, value in this.items())


def _ended(future: Future[JobResult]) -> JobResult:
    try:
        return future.result()
    except JobLostError as error:
        return JobResult.failed(error, state=State.CRASHED)
    except JobError as error:
        return JobResult.failed(error)
