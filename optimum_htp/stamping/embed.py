"""Putting files into ONNX files that have a record, and taking them out: `optimum-cli htp embed` and `unembed`.

A model of several files carries them once, in one that every class opens; the others say where. So both work on all
files of a model that lie together, whichever of them is named.
"""

from __future__ import annotations

import dataclasses
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Lock
from typing import Final, TypeVar

from optimum_htp import plugins
from optimum_htp.errors import (
    EmbeddedFilesError,
    FileChangedError,
    MisfitError,
    MissingSiblingError,
    OnnxWriteError,
    OptimumHTPError,
)
from optimum_htp.hubs.base import FileDigest, HubAccess
from optimum_htp.libraries.code_references import references_in
from optimum_htp.libraries.names import CONFIG, EXPORT_MANIFEST
from optimum_htp.libraries.repo_files import config_files, read_json
from optimum_htp.masking import get_logger
from optimum_htp.metadata import EMBEDDED_ZIP, PREFIX, EmbeddedFile, ExportMetadata, read_record, record_if_any
from optimum_htp.onnxfile import read_header, replaced_atomically, rewrite_model
from optimum_htp.onnxfile.folder_lock import folder_lock
from optimum_htp.onnxfile.shared import refuse_shared
from optimum_htp.origin.evidence import require_unchanged
from optimum_htp.resolve.config_fit import misfit
from optimum_htp.resolve.embedded import EmbeddedFiles, embedded_in
from optimum_htp.resolve.embedding import Embedding, embedding_of
from optimum_htp.resolve.export_manifest import manifest_of
from optimum_htp.resolve.model_files import holder_of, model_root, stamped_in
from optimum_htp.resolve.order import CommitFiles, find_files, within_order
from optimum_htp.stamping.embedded_check import differing

__all__ = ["embed_files", "files_of_model", "once_a_model", "unembed_files", "with_embedded"]

logger = get_logger(__name__)

Result = TypeVar("Result")

_KEYS: Final = frozenset((f"{PREFIX}embedded_files", f"{PREFIX}embedded_in", EMBEDDED_ZIP))


def with_embedded(record: ExportMetadata, embedding: Embedding | None) -> ExportMetadata:
    """Return a file's record with what travels with its model, and where: in a file that every class opens."""
    if embedding is None:
        return dataclasses.replace(record, embedded_files=(), embedded_in=None)
    first = holder_of(record.onnx_files)
    holder = None if first == record.onnx_file else first
    return dataclasses.replace(record, embedded_files=embedding.files, embedded_in=holder)


def files_of_model(path: Path, record: ExportMetadata) -> dict[Path, ExportMetadata]:
    """Return the files of a model that lie where they were exported to, with their records; renamed ones too.

    Raises:
        MissingSiblingError: There are fewer folders above the file than its name in the model has.
    """
    found = {path: record}
    if record.onnx_file is None:
        return found
    root = model_root(path, record)
    for folder in sorted({(root / name).parent for name in record.onnx_files}):
        for file, other in stamped_in(folder).items():
            if other.belongs_with(record) and other.onnx_file != record.onnx_file:
                found[file] = other
    return found


def once_a_model(work: Callable[[str], Result]) -> Callable[[str], Result]:
    """Return a function that does something to the model of each file that it is given, once for all files of one.

    Args:
        work: Does it; what it returns for one file of a model counts for all.
    """
    done: dict[object, Result] = {}
    turns: defaultdict[object, Lock] = defaultdict(Lock)

    def once(file: str) -> Result:
        record = record_if_any(file)
        model: object = file
        if record is not None and record.onnx_file is not None:
            root = model_root(Path(file), record)
            model = (root.resolve(), record.hub_sha, record.export_timestamp, record.export_id, record.onnx_files)
        with turns[model]:
            if model not in done:
                done[model] = work(file)
            return done[model]

    return once


def embed_files(
    path: str | os.PathLike[str],
    folder: str | os.PathLike[str] | None = None,
    *,
    external_data: bool = False,
    access: HubAccess | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> tuple[EmbeddedFile, ...]:
    """Put config and preprocessor files into an ONNX file that has a record; into one file of its model's.

    Args:
        path: The file, or one of a model of several.
        folder: Where the files are; None for those of the commit in the record, or beside a local model's file.
        external_data: Whether to move the weights of each file of the model to `<file>_data`.
        access: How to reach the Hub; `token`, `cache_dir` and `local_files_only` are its fields, as arguments.

    Returns:
        What was embedded.

    Raises:
        EmbeddedFilesError: The file has no record, or there is nothing to embed, or more than is read again.
        MisfitError: The config in the folder is another model's, or a file there is not the one of the commit in the
            record. Where the Hub does not tell, a warning says so.
        FileChangedError: A file was replaced meanwhile. It is as it was.
        MissingSiblingError: The file of the model that is to carry them is not there.
        HFHubIntegrationError: The Hub does not give the files; the subclass says why.
        OnnxWriteError: A file cannot be written. It is as it was.
    """
    path, access = Path(path), HubAccess.of(access, token, cache_dir, local_files_only)
    record = _record(path)
    files = files_of_model(path, record)
    first = holder_of(record.onnx_files)
    if first is not None and first not in {other.onnx_file for other in files.values()}:
        raise MissingSiblingError(
            f"{first} is missing: it is the file of the model that {path} belongs to which carries what is embedded. "
            "Put them together."
        )
    source, names = _source(path, record, None if folder is None else Path(folder), access)
    manifest = manifest_of(path, record)
    own = {} if manifest is None else {EXPORT_MANIFEST: manifest.to_bytes()}
    embedding = embedding_of(source, names, record.export_library, strict=True, own=own)
    if embedding is None:
        raise EmbeddedFilesError(f"{source} has neither a config nor files of preprocessors to embed into {path}.")
    if folder is not None and record.model_type == "hub" and record.hub_sha is not None:
        _check_commits(path, record, source, [file.name for file in embedding.files if file.name not in own], access)
    with _files_in_turn(path, record) as files:
        for file, known in sorted(files.items(), key=lambda item: item[1].onnx_file != first):
            new = with_embedded(known, embedding)
            properties = {key: value for key, value in new.to_properties().items() if key in _KEYS}
            if new.embedded_in is None:
                properties[EMBEDDED_ZIP] = embedding.archive
            rewrite_model(file, metadata=properties, drop=_KEYS.__contains__, external_data=external_data)
    return embedding.files


def unembed_files(
    path: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None
) -> tuple[EmbeddedFile, ...]:
    """Take what is embedded out of an ONNX file, and out of the others of its model.

    Args:
        path: The file, or one of a model of several.
        folder: Where to write the files first; None to throw them away.

    Returns:
        What was embedded; nothing where nothing was.

    Raises:
        EmbeddedFilesError: They are to be written, and are not what the file says.
        OnnxWriteError: A file cannot be written, or another is in its place. The ONNX files are as they were.
    """
    path = Path(path)
    if not _has_any(path):
        return ()
    # Whatever is wrong with them, they can be thrown away.
    record = record_if_any(path) if folder is None else read_record(path)
    if folder is not None:
        found = embedded_in(path, record)
        if found is None:
            raise EmbeddedFilesError(
                f"{path} lists embedded files, and they are in a file of its model that is away. Put them together."
            )
        _write(found, Path(folder))
    if record is None:
        rewrite_model(path, drop=_KEYS.__contains__)
        return ()
    try:
        with _files_in_turn(path, record) as files:
            for file in files:
                rewrite_model(file, drop=_KEYS.__contains__)
    except MissingSiblingError:  # what is in this file can be removed all the same
        rewrite_model(path, drop=_KEYS.__contains__)
    return record.embedded_files


@contextmanager
def _files_in_turn(path: Path, record: ExportMetadata) -> Iterator[dict[Path, ExportMetadata]]:
    """Yield the files of a model with their records, while no other command embeds into them or exports over them.

    Args:
        path: One of the files.
        record: Its record, as it was read before.

    Raises:
        MissingSiblingError: The file is not in a folder of its model.
        FileChangedError: The file has another record now.
        OnnxWriteError: Another command has been writing there for long.
    """
    with ExitStack() as held:
        if record.onnx_file is not None:
            try:
                held.enter_context(folder_lock(model_root(path, record)))
            except OSError as error:
                raise OnnxWriteError(f"{path} cannot be written: {error}. Nothing there was changed.") from error
        if record_if_any(path) != record:
            raise FileChangedError(f"{path} was changed by another command. Nothing was written; try again.")
        yield files_of_model(path, record)


def _has_any(path: Path) -> bool:
    header = read_header(path)
    return not _KEYS.isdisjoint({*header.metadata, *header.archives})


def _record(path: Path) -> ExportMetadata:
    record = read_record(path)
    if record is None:
        raise EmbeddedFilesError(
            f"{path} does not say which model it came from. `optimum-cli htp inject {path} --model ID` (or a folder) "
            "writes that, and embeds the model's files too."
        )
    return record


def _source(
    path: Path, record: ExportMetadata, folder: Path | None, access: HubAccess
) -> tuple[Path, tuple[str, ...]]:
    """Return the folder that has the files to embed, and their names."""
    if folder is None and record.model_type == "hub" and (record.hub_sha or record.hub_revision):
        return _commit(record, access)
    folder = folder if folder is not None else model_root(path, record)
    if not folder.is_dir():
        raise EmbeddedFilesError(f"{folder} is not a folder. Name the one that holds the model's config.json.")
    content = read_json(folder / CONFIG)
    if isinstance(content, dict) and (reason := misfit(content, record, path)) is not None:
        raise MisfitError(f"{folder / CONFIG} is not the config of {path}: {reason}. Name the folder of its model.")
    return folder, tuple(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def _check_commits(
    path: Path, record: ExportMetadata, folder: Path, embedded: Sequence[str], access: HubAccess
) -> None:
    """Refuse files that are not those of the commit that a record names: loaders would take them for these.

    Raises:
        MisfitError: Some are not. Where the Hub does not tell, there is a warning.
    """
    digests: Mapping[str, FileDigest] | None = None
    reason: object
    try:
        hub = plugins.hub(record.hub_provider)
        digests = hub.digests(str(record.hub_id), str(record.hub_sha), within_order(access))
        reason = f"{hub.name} does not tell the digests of its files"
    except OptimumHTPError as error:
        reason = error
    if digests is None:
        logger.warning("Whether the files in %s are those of %s was not checked: %s", folder, record.source, reason)
        return
    names = differing({name: (folder / name).read_bytes() for name in embedded}, digests)
    if names:
        raise MisfitError(
            f"{', '.join(names)} in {folder} {'is' if len(names) == 1 else 'are'} not what {record.source} has, which "
            f"{path} says that it is of: nothing was written. Leave out the folder (--from) to embed the commit's; or "
            f"say that the file is of the model in the folder: `optimum-cli htp inject {path} --model {folder}`."
        )


def _commit(record: ExportMetadata, access: HubAccess) -> tuple[Path, tuple[str, ...]]:
    hub, repo_id = plugins.hub(record.hub_provider), str(record.hub_id)
    commit = record.hub_sha or hub.full_commit(repo_id, str(record.hub_revision), within_order(access))
    names = (
        record.config_files
        if record.config_files is not None
        else hub.info(repo_id, commit, within_order(access)).files
    )
    names = config_files(names, library=record.export_library or "transformers")
    folder = find_files(CommitFiles(hub, repo_id, commit, names, access))
    require_unchanged(hub, repo_id, commit, folder, names, within_order(access))
    return folder, names


def _write(found: EmbeddedFiles, folder: Path) -> None:
    """Write files into a folder, all of them or none."""
    refuse_shared(folder)
    contents = found.read(with_code=True)
    for reference in references_in(contents):
        logger.warning(
            "%s: libraries trust what is in a local folder, and would import that from %s.", reference, folder
        )
    for name, content in contents.items():
        target = folder / name
        if not target.resolve().is_relative_to(folder.resolve()):
            raise OnnxWriteError(f"{target} is behind a link that leads elsewhere. Name another folder.")
        if target.exists() and (not target.is_file() or target.read_bytes() != content):
            raise OnnxWriteError(f"{target} is there already, and is another file. Name another folder.")
    try:
        for name, content in contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with replaced_atomically(folder / name) as stream:
                stream.write(content)
    except OSError as error:
        raise OnnxWriteError(f"{folder} cannot be written: {error}. The ONNX file is as it was.") from error
