"""Filling a mirror: the files of a commit that loading needs, each with its digest, and the manifest last.

A commit is on a mirror once its manifest is, so whoever reads finds all of it or nothing. A run that was cut off left
behind which files it had finished, and the next one goes on after those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

from optimum_htp.errors import ArgumentError, HubUnreachableError, MirrorError, OptimumHTPError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.libraries.names import CONFIG, WEIGHTS
from optimum_htp.libraries.repo_files import is_sentence_transformers_file
from optimum_htp.masking import get_logger
from optimum_htp.metadata import read_record
from optimum_htp.onnxfile.canonical import sha256_of_file
from optimum_htp.onnxfile.replace_file import replaced_atomically
from optimum_htp.origin.checkpoint import Checkpoint, fetch_checkpoint
from optimum_htp.origin.evidence import require_unchanged
from optimum_htp.origin.mirror_manifest import MANIFEST, ListedFile, MirrorManifest
from optimum_htp.origin.mirrors import MirrorFolder
from optimum_htp.origin.source import HubSource, locate

__all__ = ["Mirrored", "mirror_model"]

logger = get_logger(__name__)

_FINISHED: Final = ".optimum-htp.part.json"


@dataclass(frozen=True)
class Mirrored:
    """What a mirror has of a commit now.

    Attributes:
        reference: The model, as one types it.
        commit: In full.
        files: Names of all files of the commit that are on the mirror.
        added: Those that this run put there.
        size: Bytes of these.
    """

    reference: str
    commit: str
    files: tuple[str, ...]
    added: tuple[str, ...]
    size: int


def mirror_model(
    model: str,
    url: str,
    access: HubAccess,
    *,
    weights: bool = False,
    put: Callable[[str, int], object] = lambda name, size: None,
) -> Mirrored:
    """Put the files of a commit on a mirror that are not there yet.

    Args:
        model: A model of a Hub (either with `@revision`), or an ONNX file that says which it came from.
        url: The mirror, as `OPTIMUM_HTP_MIRRORS` has it.
        access: How to reach the Hub.
        weights: Whether the weights are to be there too.
        put: Called with name and size of each file that has been put there.

    Raises:
        ArgumentError: A local model.
        MirrorError: The mirror cannot be read or written, or has another content under the commit.
        HFHubIntegrationError: The Hub does not give the files; the subclass says why.
    """
    source, library = _source(model, access)
    if source.info is None:
        raise HubUnreachableError(
            f"Which files {source.repo_id} has at {source.commit} is not known, because the Hub was not asked: "
            f"{source.reason}"
        )
    place = MirrorFolder.at(url)
    wanted = MirrorManifest(source.provider, source.repo_id, source.commit, commit_files=frozenset(source.info.files))
    with _faults_of(url):
        known = place.manifest(wanted) or wanted
    checkpoint = fetch_checkpoint(source, access, library, weights=weights, to_load=False)
    names = _needed(checkpoint, source.info.files, weights=weights)
    missing = [name for name in names if name not in known.files]
    folder = source.hub.snapshot(source.repo_id, source.commit, missing, access, ref=source.ref, progress=True)
    require_unchanged(source.hub, source.repo_id, source.commit, folder, missing, access, source.info)
    added = {}
    with _faults_of(url):
        finished = _finished(place, wanted)
        for name in missing:
            digest = _digest(folder / name)
            if finished.get(name) != digest:
                _put(place, place.path(wanted, name), folder / name)
                finished[name] = digest
                _write(place, place.path(wanted, _FINISHED), replace(wanted, files=finished).to_json())
            added[name] = digest
            put(name, digest.size)
        if added or known is wanted:
            known = replace(known, commit_files=wanted.commit_files, files={**known.files, **added})
            _write(place, place.path(wanted, MANIFEST), known.to_json())
        with suppress(FileNotFoundError):  # whoever else mirrors the commit right now has removed it
            place.files.rm_file(place.path(wanted, _FINISHED))
    size = sum(digest.size for digest in added.values())
    return Mirrored(source.reference, source.commit, tuple(sorted(known.files)), tuple(added), size)


def _source(model: str, access: HubAccess) -> tuple[HubSource, str | None]:
    """Return what to mirror, and the library that loads it where a file says that."""
    if not model.endswith(".onnx"):
        found, library = locate(model, None, access), None
    else:
        record = read_record(model)
        if record is None or record.model_type != "hub":
            raise ArgumentError(f"{model} does not come from a model of a Hub: there is nothing to mirror.")
        prefix = "" if record.hub_provider is None else f"{record.hub_provider}://"
        found, library = (
            locate(f"{prefix}{record.hub_id}", record.hub_sha or record.hub_revision, access),
            record.export_library,
        )
    if not isinstance(found, HubSource):
        raise ArgumentError(f"{model} is a local model, and only commits of a Hub are mirrored.")
    return found, library


def _needed(checkpoint: Checkpoint, listed: tuple[str, ...], *, weights: bool) -> list[str]:
    """Return the files of a commit that loading an export of it asks for; with weights, also what exporting does."""
    names = {*checkpoint.config_files, *(checkpoint.weights if weights else ())}
    modules = {PurePosixPath(name).parent for name in names if is_sentence_transformers_file(name)}
    names |= {
        (folder / WEIGHTS).as_posix() for folder in modules if folder.parts and (folder / CONFIG).as_posix() in names
    }
    if weights and not checkpoint.config:  # ONNX files are all that such a repo has
        names |= {name for name in listed if ".onnx" in PurePosixPath(name).suffixes or name.endswith(".onnx_data")}
    return sorted(names & {*listed})


def _digest(path: Path) -> ListedFile:
    return ListedFile(path.stat().st_size, sha256_of_file(path))


def _finished(place: MirrorFolder, wanted: MirrorManifest) -> dict[str, ListedFile]:
    """Return the files that a run which was cut off had put there."""
    try:
        text = place.files.cat_file(place.path(wanted, _FINISHED))
    except FileNotFoundError:
        return {}
    try:
        return dict(MirrorManifest.from_json(text, wanted).files)
    except MirrorError as error:
        logger.info("What an earlier run had finished cannot be read: %s", error)
        return {}


def _put(place: MirrorFolder, path: str, file: Path) -> None:
    place.files.makedirs(path.rpartition("/")[0], exist_ok=True)
    place.files.put_file(str(file.resolve()), path)


def _write(place: MirrorFolder, path: str, content: bytes) -> None:
    """Write a small file, whole or not at all: an object store does no other."""
    place.files.makedirs(path.rpartition("/")[0], exist_ok=True)
    if place.is_local:
        with replaced_atomically(Path(path)) as stream:
            stream.write(content)
    else:
        place.files.pipe_file(path, content)


@contextmanager
def _faults_of(url: str) -> Iterator[None]:
    """Name the mirror in what its file system raises."""
    try:
        yield
    except OptimumHTPError:
        raise
    except Exception as error:  # each file system of fsspec's raises its own
        raise MirrorError(
            f"The mirror {url} cannot be used: {type(error).__name__}: {error}. Pass another one with -o."
        ) from error
