"""Detects ONNX files loaded from a repo whose configs have changed since the commit in the files' record."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from optimum_htp.errors import AccessDeniedError, DownloadError, ModelNotFoundError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.hubs.huggingface.cache import is_known_missing
from optimum_htp.libraries.names import CONFIG, GENERATION_CONFIG
from optimum_htp.libraries.repo_files import MODEL_CONFIGS, config_files, is_sentence_transformers_file
from optimum_htp.masking import get_logger
from optimum_htp.metadata import ExportMetadata, read_record
from optimum_htp.origin.evidence import names_below
from optimum_htp.resolve.adjacent import PIPELINE, PREPROCESSORS
from optimum_htp.resolve.config_folder import Carrier, carrier_of, find, overriding
from optimum_htp.resolve.configs import ConfigSource
from optimum_htp.resolve.embedded import EmbeddedFiles

__all__ = ["has_changed", "needs_reload", "overriding_commit"]

logger = get_logger(__name__)

_warned: Final[set[tuple[str, str]]] = set()


def needs_reload(file: Path, options: Mapping[str, Any]) -> bool:
    """Whether a cached file that a library has loaded must be loaded again with the configs of its own commit.

    The options are those of the load, under transformers' names.
    """
    record = read_record(file)
    if overriding(record, options.get("revision")) is not None:
        return False
    access = HubAccess.from_options({**options, "force_download": None})
    return has_changed(carrier_of(file, record, access), access, with_code=bool(options.get("trust_remote_code")))


def overriding_commit(carrier: Carrier, options: Mapping[str, Any], access: HubAccess) -> str | None:
    """Return the commit of an ONNX file's repo if the user gives its revision and its configs differ, else None."""
    if carrier.other is None or overriding(carrier.record, options.get("revision")) is None:
        return None
    trusted = bool(options.get("trust_remote_code"))
    changed = has_changed(carrier, access, with_code=trusted, model_only=True, warn=False)
    return carrier.other.name if changed else None


def has_changed(
    carrier: Carrier, access: HubAccess, *, with_code: bool, model_only: bool = False, warn: bool = True
) -> bool:
    """Whether the configs of a repo differ from those at the commit in the ONNX file's record.

    Also False if the file was downloaded at its own commit, or if the configs of this commit are not available. With
    `model_only`, only the model's own configs count, not those of preprocessors and modules. A change is logged once.
    """
    record, other = carrier.record, carrier.other
    if other is None or record is None:
        return False
    own, library = record.config_files or (), record.export_library or "transformers"
    names = MODEL_CONFIGS if model_only else {*config_files(names_below(other), library=library), *own}
    with suppress(AccessDeniedError, DownloadError, ModelNotFoundError):
        changed = (name for name in sorted(names) if _differs(carrier, record, other, name, access, with_code))
        if (name := next(changed, None)) is None:
            return False
        if warn and (record.source, other.name) not in _warned:
            _warned.add((record.source, other.name))
            logger.warning(
                "%s was exported from %s, and %s has changed since. The configs and preprocessors of that commit are "
                'used. Pass revision="%s" for those next to the file, or export the model again from its newest '
                "commit.",
                carrier.name,
                record.source,
                name,
                other.name,
            )
        return True
    return False


def _differs(
    carrier: Carrier, record: ExportMetadata, folder: Path, name: str, access: HubAccess, with_code: bool
) -> bool:
    path = folder / name
    repo_id = folder.parents[1].name.removeprefix("models--").replace("--", "/")  # can be an old name
    if not path.is_file() and not is_known_missing(repo_id, name, folder.parents[2], folder.name):
        return False  # not requested yet
    digest = _digest_of(path)
    if record.config_files is not None and name not in record.config_files:
        return digest is not None
    what = PIPELINE if record.export_library == "diffusers" else _loader_of(name)
    source = find(carrier, what, access, with_code=with_code, needed=False)
    return source is not None and _digest_in(source, name, folder) not in (digest, "")


def _loader_of(name: str) -> str:
    """Return the class or file name with which `find` finds a file."""
    loaders = {CONFIG: "AutoConfig", GENERATION_CONFIG: "GenerationConfig"}
    return name if is_sentence_transformers_file(name) else loaders.get(name, PREPROCESSORS)


def _digest_in(source: ConfigSource, name: str, other: Path) -> str | None:
    """Return the SHA-256 of a file, None if it does not exist, or an empty text if it is unknown."""
    if isinstance(source, EmbeddedFiles):
        return next((file.sha256 for file in source.files if file.name == name), "")
    if source.folder == other:
        return ""
    return _digest_of(source.folder / name)


def _digest_of(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
