"""One job of a batch, in whatever process or machine it is done: fetched, exported, and told as a record.

What fails for a reason that says something of the model is told in the record, too: it can be sent from anywhere.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from optimum_htp.errors import OptimumHTPError, RateLimitedError
from optimum_htp.extras.batch.jobs import Job, State, lasting_options
from optimum_htp.extras.batch.limit import A_MINUTE
from optimum_htp.extras.batch.processes import peak_memory
from optimum_htp.hubs.base import HubAccess
from optimum_htp.masking import get_logger
from optimum_htp.metadata import ExportMetadata
from optimum_htp.onnxfile.canonical import sha256_of_file
from optimum_htp.stamping.manifests import WrittenFile
from optimum_htp.version import __version__

if TYPE_CHECKING:
    from optimum_htp.extras.batch.outputs import Output
    from optimum_htp.origin.source import HubSource, LocalSource

__all__ = [
    "Export",
    "Exported",
    "JobResult",
    "export_job",
    "fetch_job",
    "locate_job",
    "versions_here",
    "written_names",
]

logger = get_logger(__name__)


class Exported(Protocol):
    """What an export says of itself when it is done."""

    @property
    def files(self) -> Sequence[Path]:
        """The ONNX files."""

    @property
    def metadata(self) -> ExportMetadata:
        """The record in the first of them."""

    @property
    def task(self) -> str:
        """The Optimum task that was exported."""


Export = Callable[..., Exported]
"""What exports a model, called and answering as `HTPExporter().export`; picklable, since another process calls it."""


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """The result of a job.

    Attributes:
        state: Its state.
        commit: Commit that was exported, None for a local model.
        task: Optimum task that was exported.
        asked: Task that was asked for, such as `auto`.
        options: How it was exported: what of the job's options decides on the files. None where nobody noted it.
        versions: Versions of what exported it, by distribution. None where nobody noted them.
        files: What was written.
        seconds: Wall time.
        peak_memory: Most memory that its process had resident, in bytes.
        error: Name of the exception's class, where it failed.
        message: What happened, and what to do next.
        retry_after: Seconds to wait, where the Hub had too many requests from here.
        traceback: Where a bug was met.
    """

    state: State
    commit: str | None = None
    task: str | None = None
    asked: str | None = None
    options: Mapping[str, Any] | None = None
    versions: Mapping[str, str] | None = None
    files: tuple[WrittenFile, ...] = ()
    seconds: float = 0.0
    peak_memory: int = 0
    error: str | None = None
    message: str | None = None
    retry_after: float | None = None
    traceback: str | None = None

    def to_entry(self) -> dict[str, Any]:
        """Return what a journal says of it: what there is to say."""
        known = {name: value for name, value in asdict(self).items() if value not in (None, (), 0, 0.0)}
        return {**known, "state": self.state.value}


def locate_job(job: Job, access: HubAccess, exported: str | None) -> JobResult:
    """Say at which commit a job's model is, as `fetch_job` does, and fetch nothing: another machine will."""
    return _told(lambda: _located(job, access, exported)[0])


def _located(job: Job, access: HubAccess, exported: str | None) -> tuple[JobResult, HubSource | LocalSource]:
    from optimum_htp.origin.source import HubSource, locate

    source = locate(job.reference, job.revision, access)
    commit = source.commit if isinstance(source, HubSource) else None
    state = State.UP_TO_DATE if commit is not None and commit == exported else State.FOUND
    return JobResult(state=state, commit=commit), source


def fetch_job(job: Job, access: HubAccess, exported: str | None) -> JobResult:
    """Bring the files that a job needs into the cache.

    Args:
        job: What will be exported.
        access: How to reach its Hub.
        exported: Commit of an export that stands; nothing is fetched where the revision is still there.

    Returns:
        `FOUND` with the commit that the revision is at now; `UP_TO_DATE` if that has been exported; or `FAILED`.
    """

    def fetch() -> JobResult:
        from optimum_htp.origin.checkpoint import fetch_checkpoint

        outcome, source = _located(job, access, exported)
        if outcome.state is State.FOUND:
            fetch_checkpoint(source, access, job.options.get("library_name"))
        return outcome

    return _told(fetch)


def export_job(job: Job, output: Output, access: HubAccess, export: Export) -> JobResult:
    """Export a model.

    Args:
        job: What to export.
        output: Where it goes.
        access: How to reach its Hub.
        export: Does it.

    Returns:
        `DONE` or `FAILED`.
    """

    def work() -> JobResult:
        with output.being_filled(job) as folder:
            result = export(
                job.reference,
                folder,
                job.task,
                revision=job.revision,
                token=access.token,
                cache_dir=access.cache_dir,
                local_files_only=access.local_files_only,
                force_download=access.force_download,
                **job.options,
            )
            outcome = JobResult(
                state=State.DONE,
                commit=result.metadata.hub_sha,
                task=result.task,
                asked=job.task,
                options=lasting_options(job.options),
                versions=versions_here(),
                files=tuple(_written(folder, name) for name in sorted(set(written_names(folder, result.files)))),
            )
            output.publish(job, folder, outcome.to_entry())
        return outcome

    return _told(work)


def _told(work: Callable[[], JobResult]) -> JobResult:
    started = time.monotonic()
    try:
        outcome = work()
    except (OptimumHTPError, OSError, TypeError) as error:
        wait = (error.retry_after or A_MINUTE) if isinstance(error, RateLimitedError) else None
        outcome = JobResult(state=State.FAILED, error=type(error).__name__, message=str(error), retry_after=wait)
    except Exception as error:  # a bug of ours or of a library: the other models are not concerned
        logger.debug("A job failed", exc_info=True)
        outcome = JobResult(
            state=State.FAILED, error=type(error).__name__, message=str(error), traceback=traceback.format_exc()
        )
    return replace(outcome, seconds=round(time.monotonic() - started, 3), peak_memory=peak_memory())


def written_names(folder: Path, files: Sequence[Path]) -> Iterator[str]:
    """Yield the names of ONNX files and of their external data, relative to the export's folder.

    The parts of a pipeline lie in folders of their own, and data is named relative to the file that has it.

    Raises:
        InvalidOnnxFileError: A file keeps data outside its folder.
    """
    from optimum_htp.onnxfile import contained_files

    for path in files:
        name = path.relative_to(folder)
        yield name.as_posix()
        yield from ((name.parent / location).as_posix() for location in contained_files(path))


def _written(folder: Path, name: str) -> WrittenFile:
    path = folder / name
    return WrittenFile(name, path.stat().st_size, sha256_of_file(path))


_STACK: Final = ("optimum", "optimum-onnx", "transformers", "diffusers", "huggingface_hub", "torch", "onnx")


def versions_here() -> dict[str, str]:
    """Return the versions of what an export's bytes depend on, by distribution."""
    found = {"optimum-htp": __version__}
    for name in _STACK:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
