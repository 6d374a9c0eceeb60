"""Targets of the exports of a batch: a folder, or any location that fsspec can write to (`s3://bucket/prefix`).

Exports in a folder can also be pushed, each to a separate repo.

Each export is written to a folder. For a location, the files of a complete export are then copied. A marker file
(`.optimum-htp.json`: commit, names, sizes, digests) is deleted before and written last, so files of a killed job are
ignored. The copying machine uses its own credentials.
"""

from __future__ import annotations

import json
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.errors import ArgumentError, OptimumHTPError, OutputError
from optimum_htp.extras.batch.jobs import State
from optimum_htp.extras.batch.journal import is_entry
from optimum_htp.masking import masked
from optimum_htp.metadata import record_if_any
from optimum_htp.onnxfile.canonical import sha256_of, sha256_of_file
from optimum_htp.onnxfile.inside import path_below
from optimum_htp.parsing import parse_json

if TYPE_CHECKING:
    from optimum_htp.extras.batch.jobs import Job
    from optimum_htp.hubs.base import HubAccess

__all__ = ["MARKER", "Folder", "Location", "Output", "Pushes", "output_at", "repos_of"]

MARKER: Final = ".optimum-htp.json"
_STORES: Final = ("s3://", "gs://", "gcs://", "az://", "abfs://")  # have no folders; makedirs would create a bucket
_LARGEST_MARKER: Final = 1 << 22  # bytes


class Output(ABC):
    """Target of the exports, sent to their processes. An `OutputError` says why it cannot be used."""

    @abstractmethod
    def being_filled(self, job: Job) -> AbstractContextManager[Path]:
        """Yield the folder to write the export of a job to."""

    def publish(self, job: Job, folder: Path, entry: Mapping[str, Any]) -> None:  # noqa: B027 - a folder needs none
        """Move a complete export to its target; `entry` is its journal entry."""

    @abstractmethod
    def standing(self, job: Job, entry: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the entry of an existing complete export, or None; `entry` is the journal entry of the job."""

    @abstractmethod
    def is_unchanged(self, job: Job, entry: Mapping[str, Any]) -> bool:
        """Return whether all files have the digests of the entry. All files are read."""

    def confirm(self, job: Job, entry: Mapping[str, Any]) -> None:  # noqa: B027 - a location needs none
        """Check that this machine can read an export, which another machine may have written."""


@dataclass(frozen=True)
class Folder(Output):
    """A folder that all exporting processes can write to, at an absolute path, because they may have other folders."""

    root: Path

    @contextmanager
    def being_filled(self, job: Job) -> Iterator[Path]:
        """See `Output.being_filled`. The exporter replaces the folder itself."""
        folder = self.root / job.output
        if self.root.is_dir():
            try:
                path_below(self.root, Path(job.output))
            except OSError as error:
                raise OutputError(f"{error}. Delete the link, or pass another folder with -o.") from error
        folder.parent.mkdir(parents=True, exist_ok=True)
        yield folder

    def standing(self, job: Job, entry: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """See `Output.standing`. The entry of the journal is used if the files exist."""
        commit, folder = entry.get("commit"), self.root / job.output
        if commit is None or entry.get("state") != State.DONE.value:
            return None
        try:
            files = [(folder / file["name"], file["size"]) for file in entry["files"] if file["sha256"]]
            is_complete = files and all(
                path.stat().st_size == size and (path.suffix != ".onnx" or _commit_of(path) == commit)
                for path, size in files
            )
        except (OSError, KeyError, TypeError):
            return None
        return entry if is_complete else None

    def is_unchanged(self, job: Job, entry: Mapping[str, Any]) -> bool:
        """See `Output.is_unchanged`."""
        folder = self.root / job.output
        try:
            return all(sha256_of_file(folder / file["name"]) == file["sha256"] for file in entry["files"])
        except OSError:
            return False

    def confirm(self, job: Job, entry: Mapping[str, Any]) -> None:
        """See `Output.confirm`. A file is missing if the path is on another disk on the worker."""
        folder = self.root / job.output
        for file in entry["files"]:
            if not (folder / file["name"]).is_file():
                raise OutputError(
                    f"The model was exported, but {folder / file['name']} does not exist here: the worker's path "
                    "is on another disk. Pass a shared folder with -o, or a location such as s3://."
                )


def _commit_of(path: Path) -> str | None:
    record = record_if_any(path)
    return record.hub_sha if record is not None else None


@dataclass(frozen=True)
class Location(Output):
    """A location of fsspec, such as an object store. It is the same on all machines."""

    url: str

    @contextmanager
    def being_filled(self, job: Job) -> Iterator[Path]:
        """See `Output.being_filled`."""
        with tempfile.TemporaryDirectory(prefix="optimum-htp-") as folder:
            yield Path(folder, "export")

    def publish(self, job: Job, folder: Path, entry: Mapping[str, Any]) -> None:
        """See `Output.publish`."""
        with _opened(self.url) as (files, root):
            target = f"{root}/{job.output}"
            if files.exists(f"{target}/{MARKER}"):
                files.rm_file(f"{target}/{MARKER}")
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    file = f"{target}/{path.relative_to(folder).as_posix()}"
                    if not self.url.startswith(_STORES):
                        files.makedirs(file.rpartition("/")[0], exist_ok=True)
                    files.put_file(str(path), file)
            files.pipe_file(f"{target}/{MARKER}", json.dumps(masked(dict(entry))).encode())

    def standing(self, job: Job, entry: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """See `Output.standing`. The marker next to the files is used; any machine can have written it."""
        with _opened(self.url) as (files, root):
            target = f"{root}/{job.output}"
            try:
                with files.open(f"{target}/{MARKER}", "rb") as stream:
                    known = parse_json(stream.read(_LARGEST_MARKER))
                if not is_entry(known):
                    return None
                sizes = {file["name"]: file["size"] for file in known["files"] if file["sha256"]}
                is_complete = all(files.info(f"{target}/{name}")["size"] == size for name, size in sizes.items())
            except (FileNotFoundError, ValueError, KeyError, TypeError):
                return None
        return known if is_complete and sizes and isinstance(known.get("commit"), str) else None

    def is_unchanged(self, job: Job, entry: Mapping[str, Any]) -> bool:
        """See `Output.is_unchanged`."""
        with _opened(self.url) as (files, root):
            for file in entry["files"]:
                with files.open(f"{root}/{job.output}/{file['name']}", "rb") as stream:
                    if sha256_of(stream) != file["sha256"]:
                        return False
        return True


def output_at(text: str) -> Output:
    """Return the output of a path or URL."""
    if "://" not in text:
        if Path(text).is_file():
            raise ArgumentError(f"{text} is a file, not a folder. Pass another folder with -o.")
        return Folder(Path(text).absolute())
    protocol, _, rest = text.partition("://")
    if protocol in ("file", "local"):
        return Folder(Path(rest).absolute())
    if protocol == "memory":
        raise ArgumentError(
            f"{text} is in memory and is lost when the process ends. Pass a folder or a location such as s3://."
        )
    with _opened(text):
        pass
    return Location(text.rstrip("/"))


@contextmanager
def _opened(url: str) -> Iterator[tuple[Any, str]]:
    """Yield the file system of a location, and the path in it. Errors of the file system are converted.

    There is no cache of listings, because other machines write there, too.
    """
    try:
        try:
            import fsspec

            files, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise OutputError(f"{url} cannot be written to: {error}. For s3://: pip install s3fs") from error
        yield files, str(root).rstrip("/")
    except OptimumHTPError:
        raise
    except Exception as error:  # each file system raises other exceptions
        raise OutputError(
            f"{url} cannot be used: {type(error).__name__}: {error}. Check that it exists, and the credentials "
            "of this machine."
        ) from error


@dataclass(frozen=True)
class Pushes:
    """Pushes the exports of a batch from its root folder to the repo of each, with the options of `push`."""

    root: Path
    repos: Mapping[str, str]
    access: HubAccess
    private: bool | None
    create_pr: bool
    layout: str

    def asked(self, job: Job) -> dict[str, Any]:
        """Return the options of a push; an earlier push with equal options is not repeated."""
        return {"repo": self.repos[job.output], "layout": self.layout, "create_pr": self.create_pr}

    def push(self, job: Job) -> dict[str, Any]:
        """Push the export of a job; return the entry for the journal."""
        from optimum_htp.extras.push.pushing import push

        done = push(
            [self.root / job.output],
            self.repos[job.output],
            private=self.private,
            create_pr=self.create_pr,
            layout=self.layout,
            access=self.access,
        )
        return {"repo": done.repo_id, "commit": done.commit, "url": done.url}


def repos_of(jobs: Sequence[Job], form: str) -> dict[str, str]:
    """Return the repo of each export, by its folder.

    The form contains `{name}` and optionally `{org}`; an owner alone means `OWNER/{name}-onnx`.
    """
    form = form if "/" in form else f"{form}/{{name}}-onnx"
    repos: dict[str, str] = {}
    for job in jobs:
        org, _, name = job.output.replace("@", "-").rpartition("/")
        repo = form.replace("{name}", name).replace("{org}", org.replace("/", "-"))
        if repo in repos.values():
            raise ArgumentError(
                f"Two models would be pushed to {repo}. Pass a pattern with {{org}} and {{name}} to --push-to-hub."
            )
        repos[job.output] = repo
    return repos
