"""Finds the files of an ONNX file's model: next to it, in it, in the cache, on a mirror or on the Hub.

`find` is the only function that walks over these places, for configs, preprocessors, pipelines and modules. The
record of the file decides. An adjacent file is used only for its own kind. `resolve/order.py` has the order of the
places.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from optimum_htp import plugins
from optimum_htp.errors import (
    AccessDeniedError,
    ConfigLoadError,
    DownloadError,
    HubUnreachableError,
    ModelNotFoundError,
    OfflineError,
)
from optimum_htp.hubs.base import HubAccess
from optimum_htp.libraries.code_references import may_refer_to_code, names_own_code, references_in
from optimum_htp.libraries.names import (
    CONFIG,
    CONFIG_CLASSES,
    EXPORT_MANIFEST,
    EXTRACTOR_CONFIG,
    GENERATION_CONFIG,
    MODEL_INDEX,
    WEIGHTS,
)
from optimum_htp.libraries.repo_files import MODEL_CONFIGS, is_sentence_transformers_file
from optimum_htp.masking import get_logger
from optimum_htp.metadata import ExportMetadata
from optimum_htp.parsing import json_or_none
from optimum_htp.resolve.adjacent import (
    PIPELINE,
    PREPROCESSORS,
    AdjacentSearch,
    configs_of_other_commit,
    lies_in,
    other_snapshot,
)
from optimum_htp.resolve.commit_files import ConfigFolder, resolve_configs, resolve_file, resolve_preprocessors
from optimum_htp.resolve.configs import ConfigSource, folder_of
from optimum_htp.resolve.embedded import EmbeddedFiles, embedded_in
from optimum_htp.resolve.order import ADJACENT, EMBEDDED, asks, stages

__all__ = ["Carrier", "carrier_of", "config_source", "find", "find_folder", "overriding", "preprocessor_folder"]

logger = get_logger(__name__)

_IMAGES: Final = "AutoImageProcessor"
_ELSEWHERE: Final = (HubUnreachableError, DownloadError)  # Errors after which the next place is tried.
_AWAY: Final = (*_ELSEWHERE, AccessDeniedError, ModelNotFoundError)


@dataclass(frozen=True)
class Carrier:
    """An ONNX file whose model's files are searched for.

    Attributes:
        name: Its name for messages.
        path: Its path; None for a file on a Hub.
        folders: The folders in which adjacent files of its model may be, the nearest first.
        is_named: Whether the user named the file itself. If the user named a folder, its files count.
        carried: Returns the embedded files in it, or in another file of its model.
        other: The folder of the commit that it was downloaded at, if its record contains another commit of the same
            repo. Its configs are used only if those of the record's commit are not available.
    """

    name: str
    record: ExportMetadata | None
    path: Path | None
    folders: tuple[Path, ...]
    is_named: bool
    carried: Callable[[], EmbeddedFiles | None]
    other: Path | None = None


def carrier_of(path: Path, record: ExportMetadata | None, access: HubAccess, named: Path | None = None) -> Carrier:
    """Return a local file as the start of a search. `named` is the folder that the user named, if any."""
    other = other_snapshot(path, record, access)
    folders = (path.parent,) if named is None else tuple(dict.fromkeys((path.parent, named)))
    if other is not None:
        folders = tuple(folder for folder in folders if folder.absolute() != other)
    return Carrier(str(path), record, path, folders, named is None, lambda: embedded_in(path, record), other)


def find(
    carrier: Carrier,
    what: str,
    access: HubAccess,
    revision: str | None = None,
    *,
    with_code: bool = False,
    slow: bool = False,
    needed: bool = True,
) -> ConfigSource | None:
    """Return the location of files of an ONNX file's model, from the first place that has them.

    Args:
        carrier: The ONNX file.
        what: The Auto class or `GenerationConfig` that loads them, or the name of a file of sentence_transformers.
        access: Options for Hub requests.
        revision: Overrides the commit of the file. The Hub's default branch does not, because libraries and wrappers
            pass it if the user named no revision.
        with_code: Whether code of the repo may run.
        slow: Whether a slow tokenizer is needed. Its files may not be embedded.
        needed: Whether a missing file is an error; for a file of sentence_transformers, whether an unreachable Hub is.

    Returns:
        A folder, or the embedded files. None if they are not needed and not available.

    Raises:
        ConfigLoadError: They do not exist, or need code that is not available.
        EmbeddedFilesError: The embedded files do not match the record.
        HFHubIntegrationError: The Hub does not provide them; the subclass gives the reason.
    """
    record = carrier.record
    what = _kept_in(what, record)
    from_hub = record is not None and record.model_type == "hub"
    revision = overriding(carrier.record, revision)
    carried = _carried(carrier, access, revision)
    embedded = carried if carried is not None and _has(carried, what, record, slow=slow and from_hub) else None

    def fetched(places: Sequence[str] | None = None) -> ConfigFolder:
        assert record is not None
        if "." in what:
            return resolve_file(record, what, access, revision=revision, places=places)
        resolve = resolve_configs if what in CONFIG_CLASSES else resolve_preprocessors
        return resolve(record, access, revision=revision, with_code=with_code, places=places)

    for stage in stages():
        if ADJACENT in stage:
            known = _known_names(record, carried)
            asked, folders = AdjacentSearch(carrier.path, record, what, carrier.is_named, revision), carrier.folders
            if carrier.other is not None and revision == carrier.other.name:
                asked, folders = dataclasses.replace(asked, revision=None), (carrier.other,)
            for folder in folders:
                if lies_in(folder, asked, known, alone=embedded is None, needed=needed):
                    return ConfigFolder(folder)
        elif EMBEDDED in stage:
            if embedded is not None and with_code and _has_code(embedded, what):
                return _with_code(embedded, record, fetched)
            if embedded is not None:
                return embedded
        elif from_hub and _may_have(record, what):
            with suppress(*_ELSEWHERE):
                return fetched(stage)
    if record is not None and from_hub and _may_have(record, what):
        if revision not in (None, record.hub_sha) and what == "AutoConfig":
            logger.warning(
                "%s was exported from %s, and revision=%r overrides that.", carrier.name, record.source, revision
            )
        try:
            return fetched()
        except _AWAY as error:
            if carrier.other is not None and revision is None:
                asked = AdjacentSearch(carrier.path, record, what, is_named=False, revision=None)
                if (others := configs_of_other_commit(carrier.other, asked)) is not None:
                    return others
            if not isinstance(error, HubUnreachableError):
                raise
            if not needed:
                return None
            if slow and carried is not None and embedded is None:
                raise _no_slow_tokenizer(carrier, error) from error
            may_carry = carrier.path is not None and revision is None and "." not in what
            if isinstance(error, OfflineError) and may_carry and carried is None:
                raise _not_carried(carrier, error) from error
            raise
    if not needed or "." in what:
        return None
    # For a folder with a config, transformers itself reports missing files.
    if what not in (*CONFIG_CLASSES, PIPELINE):
        return find(carrier, "AutoConfig", access, revision)
    raise ConfigLoadError(_none_at_all(carrier))


def find_folder(carrier: Carrier, what: str, access: HubAccess, revision: str | None = None, **options: bool) -> Path:
    """Return a folder with files of an ONNX file's model. Arguments and exceptions are those of `find`."""
    source = find(carrier, what, access, revision, **options)
    assert source is not None  # It is needed.
    return folder_of(source)


def config_source(
    path: Path,
    metadata: ExportMetadata | None,
    access: HubAccess,
    revision: str | None,
    trust_remote_code: bool,
    *,
    needed: bool,
) -> ConfigSource | None:
    """Return the location of the config of a local ONNX file; see `find`."""
    carrier = carrier_of(path, metadata, access)
    return find(carrier, "AutoConfig", access, revision, with_code=trust_remote_code, needed=needed)


def preprocessor_folder(
    path: Path, metadata: ExportMetadata | None, access: HubAccess, revision: str | None = None, **options: bool
) -> Path:
    """Return a folder with all preprocessors of a local ONNX file; see `find`."""
    return find_folder(carrier_of(path, metadata, access), PREPROCESSORS, access, revision, **options)


def _kept_in(what: str, record: ExportMetadata | None) -> str:
    """Return what to search for to load an object: the image processor of a timm model is in its config."""
    of_timm = record is not None and record.export_library == "timm" and record.preprocessors == (_IMAGES,)
    is_there = of_timm and EXTRACTOR_CONFIG not in (record.config_files or () if record is not None else ())
    return "AutoConfig" if is_there and what in (_IMAGES, PREPROCESSORS) else what


def overriding(record: ExportMetadata | None, revision: str | None) -> str | None:
    """Return the revision if it overrides the commit of a file. Libraries pass the default branch for users."""
    if revision is None or record is None or record.model_type != "hub":
        return revision
    return revision if revision != plugins.hub(record.hub_provider).default_revision else None


def _carried(carrier: Carrier, access: HubAccess, revision: str | None) -> EmbeddedFiles | None:
    """Return the embedded files, unless the user requests another revision."""
    record = carrier.record
    if record is None or not record.embedded_files or not asks(EMBEDDED):
        return None
    if record.model_type == "hub" and (revision is not None or access.force_download):
        return None
    return carrier.carried()


def _has(embedded: EmbeddedFiles, what: str, record: ExportMetadata | None, *, slow: bool) -> bool:
    """Whether an object can be loaded from the embedded files."""
    names = {*embedded.names}
    if what in CONFIG_CLASSES:  # A generation config is created from the model's config if it is missing.
        return CONFIG in names or (what != "AutoConfig" and GENERATION_CONFIG in names)
    if what == PIPELINE:
        return MODEL_INDEX in names
    if "." in what:
        return what in names and is_sentence_transformers_file(what)
    if names <= {*MODEL_CONFIGS, EXPORT_MANIFEST} and record is not None and record.preprocessors:
        return False  # Only its config is embedded.
    if slow and record is not None and record.config_files is not None:  # A fast one needs only some files.
        return {name for name in record.config_files if not name.endswith(".py")} <= names
    return True


def _may_have(record: ExportMetadata | None, what: str) -> bool:
    """Whether the commit may have a file. The record lists its files."""
    names = record.config_files if record is not None else None
    if "." in what:  # Only modules have weights of their own.
        module = PurePosixPath(what).parent / CONFIG
        known = [name for name in names or () if is_sentence_transformers_file(name)]
        return what in known or (PurePosixPath(what).name == WEIGHTS and module.as_posix() in known)
    return what != "GenerationConfig" or names is None or GENERATION_CONFIG in names


def _known_names(record: ExportMetadata | None, carried: EmbeddedFiles | None) -> Collection[str] | None:
    if record is not None and record.config_files is not None:
        return record.config_files
    return None if carried is None else carried.names


def _has_code(embedded: EmbeddedFiles, what: str) -> bool:
    """Whether one of the embedded configs for an object refers to code."""
    if what in CONFIG_CLASSES or "." in what:
        names = [CONFIG if what in CONFIG_CLASSES else what]
    else:
        names = [name for name in embedded.names if not is_sentence_transformers_file(name)]
    there = embedded.read([name for name in names if may_refer_to_code(name)], with_code=True)
    return bool(references_in(there)) or any(names_own_code(json_or_none(text)) for text in there.values())


def _with_code(
    embedded: EmbeddedFiles, record: ExportMetadata | None, fetched: Callable[[], ConfigFolder]
) -> ConfigFolder:
    """Return the files of a commit together with the code that they refer to. Code is never embedded."""
    what = f"{embedded.path} contains its configs, but not the code that they refer to"
    if record is None or record.model_type != "hub":
        raise ConfigLoadError(
            f"{what}. It is from a local model, so the code cannot be downloaded. Copy the model's files, including "
            f"code, into {Path(embedded.path).parent}, or leave out trust_remote_code=True."
        )
    try:
        return fetched()
    except HubUnreachableError as error:
        raise type(error)(f"{what}, and the code cannot be downloaded. {error}") from error


def _no_slow_tokenizer(carrier: Carrier, error: HubUnreachableError) -> HubUnreachableError:
    return type(error)(
        f"A slow tokenizer (use_fast=False, or a slow class) needs files that are not embedded in {carrier.name}, so "
        "they were requested from the Hub. Use the fast tokenizer, or save the slow one once with a connection, and "
        f"load it from its folder. {error}"
    )


def _not_carried(carrier: Carrier, error: OfflineError) -> OfflineError:
    return OfflineError(
        f"The requested files are not embedded in {carrier.name}. {error} `optimum-cli htp embed {carrier.name}` "
        f"embeds them; `optimum-cli htp mirror {carrier.name} -o FOLDER` copies them for machines without a Hub."
    )


def _none_at_all(carrier: Carrier) -> str:
    where = carrier.folders[0] if carrier.folders else "the folder of its model"
    if carrier.record is not None:
        return (
            f"{carrier.name} was exported from a local model, and its {CONFIG} is not next to it. Copy the model's "
            f"{CONFIG} into {where}, or pass config=."
        )
    return (
        f"{carrier.name} has no record, and there is no {CONFIG} next to it. Do one of these: export the model again "
        f"with `optimum-cli export htp`; add a record with `optimum-cli htp inject {carrier.name} --model ID`; copy "
        f"its {CONFIG} into {where}; or pass config=."
    )
