"""Where a batch's exports go: a folder, or any location that fsspec writes to (`s3://bucket/prefix`).

An export is made in a folder in either case. To a location its files are copied when it is whole, and a small file
that tells of them (`.optimum-htp.json`: commit, names, sizes, digests) is taken away before and written last, so that
what a killed job left there counts for nothing. Credentials are whatever the machine that copies has.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

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

__all__ = ["MARKER", "Folder", "Location", "Output", "output_at"]

MARKER: Final = ".optimum-htp.json"
_STORES: Final = ("s3://", "gs://", "gcs://", "az://", "abfs://")  # have no folders: a bucket would be made
_LARGEST_MARKER: Final = 1 << 22  # bytes


class Output(Protocol):
    """Where exports go. It is sent to whatever process makes one."""

    @contextmanager
    def being_filled(self, job: Job) -> Iterator[Path]:
        """Yield the folder that a job's export is written to."""
        ...

    def publish(self, job: Job, folder: Path, entry: Mapping[str, Any]) -> None:
        """Bring an export that is whole to its place; `entry` tells of it as a journal does."""
        ...

    def standing(self, job: Job, entry: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return what tells of a job's export that stands and is whole, or None; `entry` is what the journal has."""
        ...

    def is_unchanged(self, job: Job, entry: Mapping[str, Any]) -> bool:
        """Tell whether the files have the digests that `standing` told of. Reads all of them."""
        ...

    def confirm(self, job: Job, entry: Mapping[str, Any]) -> None:
        """See that this machine has an export, which another may have made; `entry` tells of it."""
        ...


@dataclass(frozen=True)
class Folder:
    """A folder that all who export can write to.

    Attributes:
        root: Its path, absolute: what another process calls its own folder is no matter.
    """

    root: Path

    @contextmanager
    def being_filled(self, job: Job) -> Iterator[Path]:
        """See `Output.being_filled`: an export takes its place by itself.

        Raises:
            OutputError: A link in the root leads out of it.
        """
        folder = self.root / job.output
        if self.root.is_dir():
            try:
                path_below(self.root, Path(job.output))
            except OSError as error:
                raise OutputError(f"{error}. Delete the link, or name another output folder.") from error
        folder.parent.mkdir(parents=True, exist_ok=True)
        yield folder

    def publish(self, job: Job, folder: Path, entry: Mapping[str, Any]) -> None:
        """See `Output.publish`."""

    def standing(self, job: Job, entry: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """See `Output.standing`: the journal's word counts, where the files are there."""
        commit, folder = entry.get("commit"), self.root / job.output
        if commit is None or entry.get("state") != State.DONE.value:
            return None
        try:
            files = [(folder / file["name"], file["size"]) for file in entry["files"] if file["sha256"]]
            whole = files and all(
                path.stat().st_size == size and (path.suffix != ".onnx" or _commit_of(path) == commit)
                for path, size in files
            )
        except (OSError, KeyError, TypeError):
            return None
        return entry if whole else None

    def is_unchanged(self, job: Job, entry: Mapping[str, Any]) -> bool:
        """See `Output.is_unchanged`."""
        folder = self.root / job.output
        try:
            return all(sha256_of_file(folder / file["name"]) == file["sha256"] for file in entry["files"])
        except OSError:
            return False

    def confirm(self, job: Job, entry: Mapping[str, Any]) -> None:
        """See `Output.confirm`.

        Raises:
            OutputError: It is not there, because a worker has another disk by that name.
        """
        folder = self.root / job.output
        for file in entry["files"]:
            if not (folder / file["name"]).is_file():
                raise OutputError(
                    f"It was exported, and this machine has no {folder / file['name']}: what its worker calls so is "
                    "another disk. Name a folder that all machines share, or a location such as s3://."
                )


def _commit_of(path: Path) -> str | None:
    record = record_if_any(path)
    return record.hub_sha if record is not None else None


@dataclass(frozen=True)
class Location:
    """A location of fsspec's, such as an object store."""

    url: str

    @contextmanager
    def being_filled(self, job: Job) -> Iterator[Path]:
        """See `Output.being_filled`."""
        with tempfile.TemporaryDirectory(prefix="optimum-htp-") as folder:
            yield Path(folder, "export")

    def publish(self, job: Job, folder: Path, entry: Mapping[str, Any]) -> None:
        """See `Output.publish`.

        Raises:
            OutputError: The location refuses the files.
        """
        with _faults_of(self.url):
            files, root = _opened(self.url)
            place = f"{root}/{job.output}"
            if files.exists(f"{place}/{MARKER}"):
                files.rm_file(f"{place}/{MARKER}")
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    target = f"{place}/{path.relative_to(folder).as_posix()}"
                    if not self.url.startswith(_STORES):
                        files.makedirs(target.rpartition("/")[0], exist_ok=True)
                    files.put_file(str(path), target)
            files.pipe_file(f"{place}/{MARKER}", json.dumps(masked(dict(entry))).encode())

    def standing(self, job: Job, entry: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """See `Output.standing`: what lies beside the files counts, whoever exported them.

        Raises:
            OutputError: The location cannot be read.
        """
        with _faults_of(self.url):
            files, root = _opened(self.url)
            place = f"{root}/{job.output}"
            try:
                with files.open(f"{place}/{MARKER}", "rb") as stream:
                    known = parse_json(stream.read(_LARGEST_MARKER))
                if not is_entry(known):
                    return None
                sizes = {file["name"]: file["size"] for file in known["files"] if file["sha256"]}
                whole = all(files.info(f"{place}/{name}")["size"] == size for name, size in sizes.items())
            except (FileNotFoundError, ValueError, KeyError, TypeError):
                return None
        return known if whole and sizes and isinstance(known.get("commit"), str) else None

    def is_unchanged(self, job: Job, entry: Mapping[str, Any]) -> bool:
        """See `Output.is_unchanged`.

        Raises:
            OutputError: The location cannot be read.
        """
        with _faults_of(self.url):
            files, root = _opened(self.url)
            for file in entry["files"]:
                with files.open(f"{root}/{job.output}/{file['name']}", "rb") as stream:
                    if sha256_of(stream) != file["sha256"]:
                        return False
        return True

    def confirm(self, job: Job, entry: Mapping[str, Any]) -> None:
        """See `Output.confirm`: a location is the same for everybody."""


def output_at(text: str) -> Output:
    """Return where a path or an address points.

    Raises:
        ArgumentError: It is no place that outlasts the process, or nothing that fsspec knows.
    """
    if "://" not in text:
        return Folder(Path(text).absolute())
    protocol, _, rest = text.partition("://")
    if protocol in ("file", "local"):
        return Folder(Path(rest).absolute())
    if protocol == "memory":
        raise ArgumentError(
            f"What is written to {text} ends with the process. Name a folder, or a location such as s3://."
        )
    with _faults_of(text):
        _opened(text)
    return Location(text.rstrip("/"))


def _opened(url: str) -> tuple[Any, str]:
    """Open a location; remember no listings, because others write there too."""
    try:
        import fsspec

        files, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise OutputError(f"{url} cannot be written to: {error}. For s3://: pip install s3fs") from error
    return files, str(root).rstrip("/")


@contextmanager
def _faults_of(url: str) -> Iterator[None]:
    """Name the location in what its file system raises."""
    try:
        yield
    except OptimumHTPError:
        raise
    except Exception as error:  # each file system of fsspec's raises its own
        raise OutputError(
            f"{url} cannot be used: {type(error).__name__}: {error}. Check that it is there, and this machine's "
            "credentials for it."
        ) from error
