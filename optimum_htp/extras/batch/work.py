"""Runs one job of a batch in any process or machine: download, export, and the result as plain data.

A failure that concerns the model is part of the result, so it can be sent between machines.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.errors import OptimumHTPError, RateLimitedError
from optimum_htp.extras.batch.jobs import Job, State, lasting_options
from optimum_htp.extras.batch.processes import peak_memory
from optimum_htp.hubs.base import HubAccess
from optimum_htp.masking import get_logger
from optimum_htp.onnxfile.canonical import sha256_of_file
from optimum_htp.stamping.manifests import WrittenFile
from optimum_htp.version import __version__

if TYPE_CHECKING:
    from optimum_htp.export.exporter import ExportResult
    from optimum_htp.extras.batch.outputs import Output
    from optimum_htp.origin.source import HubSource, LocalSource

__all__ = [
    "A_MINUTE",
    "Export",
    "JobResult",
    "export_job",
    "fetch_job",
    "locate_job",
    "versions_here",
    "written_names",
]

logger = get_logger(__name__)

A_MINUTE: Final = 60.0  # seconds to wait if the Hub does not report a time


Export = Callable[..., "ExportResult"]
"""Exports a model, as `HTPExporter().export`; picklable, because another process calls it."""


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """The result of a job.

    Attributes:
        commit: Commit that was exported, None for a local model.
        task, asked: Optimum task that was exported, and the task of the job, such as `auto`.
        options, versions: Options that change the files, and the exporting packages. None if they are unknown.
        peak_memory: Peak of the resident memory of the process, in bytes.
        error: Class name of the exception of a failed job.
        message: What happened, and the next step.
        retry_after: Seconds to wait, if the Hub limits requests.
        traceback: Traceback of a bug.
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

    @classmethod
    def failed(cls, error: Exception, **more: Any) -> JobResult:
        """Return the result of a job that an exception ended."""
        return cls(**{"state": State.FAILED, "error": type(error).__name__, "message": str(error), **more})

    def to_entry(self) -> dict[str, Any]:
        """Return the fields for the journal, without empty ones."""
        known = {name: value for name, value in asdict(self).items() if value not in (None, (), 0, 0.0)}
        return {**known, "state": self.state.value}


def locate_job(job: Job, access: HubAccess, exported: str | None) -> JobResult:
    """Return the commit of a model like `fetch_job`, without a download: another machine downloads."""
    return _as_result(lambda: _located(job, access, exported)[0])


def _located(job: Job, access: HubAccess, exported: str | None) -> tuple[JobResult, HubSource | LocalSource]:
    from optimum_htp.origin.source import HubSource, locate

    source = locate(job.reference, job.revision, access)
    commit = source.commit if isinstance(source, HubSource) else None
    state = State.UP_TO_DATE if commit is not None and commit == exported else State.FOUND
    return JobResult(state=state, commit=commit), source


def fetch_job(job: Job, access: HubAccess, exported: str | None) -> JobResult:
    """Download the files of a job to the cache, unless the revision is still at the exported commit.

    Returns:
        `FOUND` with the present commit of the revision; `UP_TO_DATE` if it is exported; or `FAILED`.
    """

    def fetch() -> JobResult:
        from optimum_htp.origin.checkpoint import fetch_checkpoint

        outcome, source = _located(job, access, exported)
        if outcome.state is State.FOUND:
            fetch_checkpoint(source, access, job.options.get("library_name"))
        return outcome

    return _as_result(fetch)


def export_job(job: Job, output: Output, access: HubAccess, export: Export) -> JobResult:
    """Export a model; return `DONE` or `FAILED`."""

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

    return _as_result(work)


def _as_result(work: Callable[[], JobResult]) -> JobResult:
    started = time.monotonic()
    try:
        outcome = work()
    except (OptimumHTPError, OSError, TypeError) as error:
        wait = (error.retry_after or A_MINUTE) if isinstance(error, RateLimitedError) else None
        outcome = JobResult.failed(error, retry_after=wait)
    except Exception as error:  # a bug of ours or of a library; it concerns this model only
        logger.debug("A job failed", exc_info=True)
        outcome = JobResult.failed(error, traceback=traceback.format_exc())
    return replace(outcome, seconds=round(time.monotonic() - started, 3), peak_memory=peak_memory())


def written_names(folder: Path, files: Sequence[Path]) -> Iterator[str]:
    """Yield the names of ONNX files and of their external data, relative to the folder of the export.

    The parts of a pipeline are in subfolders, and a name of external data is relative to its ONNX file.
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
    """Return the versions of the packages that change the bytes of an export, by distribution."""
    found = {"optimum-htp": __version__}
    for name in _STACK:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
