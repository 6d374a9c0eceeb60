"""Embed files into ONNX files with a record, and remove them: `optimum-cli htp embed` and `unembed`.

In a model of several files, only one file contains the embedded files: a file that every class opens. The records of
the others name it. So both functions work on all adjacent files of a model, given any one of them.
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
    MismatchError,
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
from optimum_htp.resolve.config_fit import mismatch
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
    """Return a file's record with the list of embedded files and the name of the file that contains them."""
    if embedding is None:
        return dataclasses.replace(record, embedded_files=(), embedded_in=None)
    first = holder_of(record.onnx_files)
    holder = None if first == record.onnx_file else first
    return dataclasses.replace(record, embedded_files=embedding.files, embedded_in=holder)


def files_of_model(path: Path, record: ExportMetadata) -> dict[Path, ExportMetadata]:
    """Return the files of a model that are still at their places in the export, renamed or not, with their records."""
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
    """Return a function that does work on the model of each given file, once for all files of the model."""
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
    """Embed config and preprocessor files into an ONNX file with a record, or into one file of its model.

    Args:
        path: The file, or any file of a model of several files.
        folder: The folder of the files. None for the commit in the record, or for a local model the folder of the
            file.
        external_data: Whether to move the weights of each file of the model to `<file>_data`.
        access: Options for Hub requests. `token`, `cache_dir` and `local_files_only` are its fields, as arguments.

    Returns:
        The embedded files.

    Raises:
        EmbeddedFilesError: The file has no record, there are no files to embed, or they exceed the limits for reading.
        MismatchError: The config in the folder belongs to another model, or a file differs from the commit in the
            record. If the Hub has no digests, there is a warning.
        FileChangedError: A file was replaced meanwhile. It is unchanged.
        MissingSiblingError: The file of the model that contains the embedded files is missing.
        HFHubIntegrationError: The Hub does not provide the files; the subclass gives the reason.
        OnnxWriteError: A file cannot be written. It is unchanged.
    """
    path, access = Path(path), HubAccess.of(access, token, cache_dir, local_files_only)
    record = read_record(path)
    if record is None:
        raise EmbeddedFilesError(
            f"{path} has no record. Run `optimum-cli htp inject {path} --model ID` (or a folder) to add one; this "
            "also embeds the model's files."
        )
    files = files_of_model(path, record)
    first = holder_of(record.onnx_files)
    if first is not None and first not in {other.onnx_file for other in files.values()}:
        raise MissingSiblingError(
            f"{first} is missing. It is the file of the same model as {path} that contains the embedded files. Copy "
            "it to its place next to the others."
        )
    source, names = _source(path, record, None if folder is None else Path(folder), access)
    manifest = manifest_of(path, record)
    own = {} if manifest is None else {EXPORT_MANIFEST: manifest.to_bytes()}
    embedding = embedding_of(source, names, record.export_library, strict=True, own=own)
    if embedding is None:
        raise EmbeddedFilesError(f"{source} contains neither a config nor preprocessor files to embed into {path}.")
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
    """Remove the embedded files from an ONNX file and from the other files of its model.

    Args:
        path: The file, or any file of a model of several files.
        folder: A folder to write the files to first. None to discard them.

    Returns:
        The files that were embedded; empty if there were none.

    Raises:
        EmbeddedFilesError: They cannot be written to the folder, because they do not match the list in the file.
        OnnxWriteError: A file cannot be written, or another file has its name. The ONNX files are unchanged.
    """
    path = Path(path)
    header = read_header(path)
    if _KEYS.isdisjoint({*header.metadata, *header.archives}):
        return ()
    # They are discarded, so they need not be valid.
    record = record_if_any(path) if folder is None else read_record(path)
    if folder is not None:
        found = embedded_in(path, record)
        if found is None:
            raise EmbeddedFilesError(
                f"{path} lists embedded files, but the file of its model that contains them is missing. Copy that "
                "file to its place."
            )
        _write(found, Path(folder))
    if record is None:
        rewrite_model(path, drop=_KEYS.__contains__)
        return ()
    try:
        with _files_in_turn(path, record) as files:
            for file in files:
                rewrite_model(file, drop=_KEYS.__contains__)
    except MissingSiblingError:  # The list in this file can still be removed.
        rewrite_model(path, drop=_KEYS.__contains__)
    return record.embedded_files


@contextmanager
def _files_in_turn(path: Path, record: ExportMetadata) -> Iterator[dict[Path, ExportMetadata]]:
    """Yield the files of a model with their records, while no other command embeds into them or exports over them.

    FileChangedError: The file has another record now. OnnxWriteError: Another command has been writing for too long.
    """
    with ExitStack() as held:
        if record.onnx_file is not None:
            try:
                held.enter_context(folder_lock(model_root(path, record)))
            except OSError as error:
                raise OnnxWriteError(f"{path} cannot be written: {error}. Nothing was changed.") from error
        if record_if_any(path) != record:
            raise FileChangedError(f"Another command changed {path}. Nothing was written; run the command again.")
        yield files_of_model(path, record)


def _source(
    path: Path, record: ExportMetadata, folder: Path | None, access: HubAccess
) -> tuple[Path, tuple[str, ...]]:
    """Return the folder of the files to embed, and their names."""
    if folder is None and record.model_type == "hub" and (record.hub_sha or record.hub_revision):
        return _commit(record, access)
    folder = folder if folder is not None else model_root(path, record)
    if not folder.is_dir():
        raise EmbeddedFilesError(f"{folder} is not a folder. Pass the folder that contains the model's config.json.")
    content = read_json(folder / CONFIG)
    if isinstance(content, dict) and (reason := mismatch(content, record, path)) is not None:
        raise MismatchError(f"{folder / CONFIG} is not the config of {path}: {reason}. Pass the folder of its model.")
    return folder, tuple(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def _check_commits(
    path: Path, record: ExportMetadata, folder: Path, embedded: Sequence[str], access: HubAccess
) -> None:
    """Reject files that differ from the commit in the record, because loaders would use them as the commit's files.

    If the Hub has no digests, there is a warning instead.
    """
    digests: Mapping[str, FileDigest] | None = None
    reason: object
    try:
        hub = plugins.hub(record.hub_provider)
        digests = hub.digests(str(record.hub_id), str(record.hub_sha), within_order(access))
        reason = f"{hub.name} has no digests of its files"
    except OptimumHTPError as error:
        reason = error
    if digests is None:
        logger.warning("It was not checked whether the files in %s match %s: %s", folder, record.source, reason)
        return
    names = differing({name: (folder / name).read_bytes() for name in embedded}, digests)
    if names:
        raise MismatchError(
            f"{', '.join(names)} in {folder} {'differs' if len(names) == 1 else 'differ'} from {record.source}, the "
            f"commit in the record of {path}. Nothing was written. Leave out --from to embed the commit's files, or "
            f"stamp the file with the model in the folder: `optimum-cli htp inject {path} --model {folder}`."
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
    """Write all files into a folder, or none."""
    refuse_shared(folder)
    contents = found.read(with_code=True)
    for reference in references_in(contents):
        logger.warning(
            "%s: libraries trust files of a local folder, and would import that code from %s.", reference, folder
        )
    for name, content in contents.items():
        target = folder / name
        if not target.resolve().is_relative_to(folder.resolve()):
            raise OnnxWriteError(f"{target} is behind a link to another folder. Pass another output folder.")
        if target.exists() and (not target.is_file() or target.read_bytes() != content):
            raise OnnxWriteError(f"{target} exists and has other content. Pass another output folder.")
    try:
        for name, content in contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with replaced_atomically(folder / name) as stream:
                stream.write(content)
    except OSError as error:
        raise OnnxWriteError(
            f"{folder} cannot be written: {error.strerror or error}. Pass another folder with -o."
        ) from error
