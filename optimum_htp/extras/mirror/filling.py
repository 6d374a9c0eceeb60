"""Copies the files of a commit that loading needs to a mirror, with their digests; the manifest is written last.

A commit is available once its manifest exists, so readers find all files or none. An interrupted run records its
finished files, and the next run resumes after them.
"""

from __future__ import annotations

from collections.abc import Iterator
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
from optimum_htp.origin.mirrors import MANIFEST, ListedFile, MirrorFolder, MirrorManifest
from optimum_htp.origin.source import HubSource, locate

__all__ = ["Mirrored", "mirror_model"]

logger = get_logger(__name__)

_FINISHED: Final = ".optimum-htp.part.json"


@dataclass(frozen=True)
class Mirrored:
    """The files of a commit on a mirror: those that this run added, with their size in bytes, and all."""

    reference: str
    commit: str
    files: tuple[str, ...]
    added: tuple[str, ...]
    size: int


def mirror_model(model: str, url: str, access: HubAccess, *, weights: bool = False) -> Mirrored:
    """Copy the missing files of a commit to a mirror, given as in `OPTIMUM_HTP_MIRRORS`.

    The model is one of a Hub (optionally with `@revision`), or an ONNX file with a record.
    """
    source, library = _source(model, access)
    if source.info is None:
        raise HubUnreachableError(
            f"The files of {source.repo_id} at {source.commit} are unknown, because no request was sent to the Hub: "
            f"{source.reason} Allow the request, and run the command again."
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
            digest = ListedFile((folder / name).stat().st_size, sha256_of_file(folder / name))
            if finished.get(name) != digest:
                _put(place, place.path(wanted, name), folder / name)
                finished[name] = digest
                _write(place, place.path(wanted, _FINISHED), replace(wanted, files=finished).to_json())
            added[name] = digest
        if added or known is wanted:
            known = replace(known, commit_files=wanted.commit_files, files={**known.files, **added})
            _write(place, place.path(wanted, MANIFEST), known.to_json())
        with suppress(FileNotFoundError):  # another run that mirrors the commit has removed it
            place.files.rm_file(place.path(wanted, _FINISHED))
    size = sum(digest.size for digest in added.values())
    return Mirrored(source.reference, source.commit, tuple(sorted(known.files)), tuple(added), size)


def _source(model: str, access: HubAccess) -> tuple[HubSource, str | None]:
    """Return the source to mirror, and the library that a file records."""
    if not model.endswith(".onnx"):
        found, library = locate(model, None, access), None
    else:
        record = read_record(model)
        if record is None or record.model_type != "hub":
            raise ArgumentError(f"{model} has no record of a model on a Hub. Pass a repo id.")
        prefix = "" if record.hub_provider is None else f"{record.hub_provider}://"
        found, library = (
            locate(f"{prefix}{record.hub_id}", record.hub_sha or record.hub_revision, access),
            record.export_library,
        )
    if not isinstance(found, HubSource):
        raise ArgumentError(f"{model} is a local model; only models of a Hub can be mirrored. Pass a repo id.")
    return found, library


def _needed(checkpoint: Checkpoint, listed: tuple[str, ...], *, weights: bool) -> list[str]:
    """Return the files of a commit that loading an export needs; with weights, also those that exporting needs."""
    names = {*checkpoint.config_files, *(checkpoint.weights if weights else ())}
    modules = {PurePosixPath(name).parent for name in names if is_sentence_transformers_file(name)}
    names |= {
        (folder / WEIGHTS).as_posix() for folder in modules if folder.parts and (folder / CONFIG).as_posix() in names
    }
    if weights and not checkpoint.config:  # a repo of ONNX files only
        names |= {name for name in listed if ".onnx" in PurePosixPath(name).suffixes or name.endswith(".onnx_data")}
    return sorted(names & {*listed})


def _finished(place: MirrorFolder, wanted: MirrorManifest) -> dict[str, ListedFile]:
    """Return the files that an interrupted run has copied."""
    try:
        text = place.files.cat_file(place.path(wanted, _FINISHED))
    except FileNotFoundError:
        return {}
    try:
        return dict(MirrorManifest.from_json(text, wanted).files)
    except MirrorError as error:
        logger.info("The state of an interrupted run cannot be read: %s", error)
        return {}


def _put(place: MirrorFolder, path: str, file: Path) -> None:
    place.files.makedirs(path.rpartition("/")[0], exist_ok=True)
    place.files.put_file(str(file.resolve()), path)


def _write(place: MirrorFolder, path: str, content: bytes) -> None:
    """Write a small file atomically. Object stores write atomically by themselves."""
    place.files.makedirs(path.rpartition("/")[0], exist_ok=True)
    if place.is_local:
        with replaced_atomically(Path(path)) as stream:
            stream.write(content)
    else:
        place.files.pipe_file(path, content)


@contextmanager
def _faults_of(url: str) -> Iterator[None]:
    """Convert errors of the file system of a mirror."""
    try:
        yield
    except OptimumHTPError:
        raise
    except Exception as error:  # each file system raises other exceptions
        raise MirrorError(
            f"The mirror {url} cannot be used: {type(error).__name__}: {error}. Pass another one with -o."
        ) from error
