"""Finds the files of a sentence_transformers model for an ONNX file: modules, their configs and their weights.

Only sentence_transformers reads these files, so they are found at its request. Embedded configs come from the ONNX
file, other configs and the weights from its commit.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path, PurePosixPath
from typing import Final

from optimum_htp.errors import (
    AccessDeniedError,
    ConfigLoadError,
    DownloadError,
    HubUnreachableError,
    ModelNotFoundError,
    SeveralModelsError,
)
from optimum_htp.hubs.base import HubAccess
from optimum_htp.libraries.code_references import refuse_code, refuse_code_in
from optimum_htp.libraries.names import CONFIG, WEIGHTS
from optimum_htp.loading.named import named
from optimum_htp.resolve.config_folder import Carrier, find
from optimum_htp.resolve.embedded import NOT_RUN, EmbeddedFiles

__all__ = ["sentence_file"]

_AWAY: Final = (AccessDeniedError, DownloadError, HubUnreachableError, ModelNotFoundError)
_PICKLE: Final = "pytorch_model.bin"
"""The file that sentence_transformers requests if a module has no `model.safetensors`."""


def sentence_file(
    source: str | os.PathLike[str],
    name: str,
    access: HubAccess,
    revision: str | None = None,
    *,
    with_code: bool = False,
) -> Path | None:
    """Return a file that sentence_transformers does not find in a folder or repo of ONNX files with a record.

    The path is in a folder of embedded files or in the cache. It is None if it is not a sentence_transformers model,
    or if the commit does not have the file. For a folder, the revision overrides the commit of the ONNX file.

    Raises:
        ConfigLoadError: The weights of a module do not exist, or are a pickle.
        UntrustedCodeError: The file refers to code, and is embedded or code is not trusted.
        HFHubIntegrationError: The file cannot be downloaded; the subclass gives the reason.
    """
    options = {**dataclasses.asdict(access), "revision": revision}
    try:
        found = named(source, options, failed=not Path(source).is_dir())
        carrier = found.carrier() if found is not None else None
    except (SeveralModelsError, ConfigLoadError):  # it is unknown to which model the file would belong
        return None
    if found is None or carrier is None or carrier.record is None:
        return None
    with_code = with_code and carrier.record.model_type == "hub"  # only a Hub commit's code can be trusted
    revision = found.options.get("revision")
    try:
        place = find(carrier, name, found.access, revision, with_code=with_code)
    except _AWAY as error:
        if PurePosixPath(name).name != WEIGHTS:
            raise
        raise type(error)(f"{_missing_weights(carrier, name, revision)} {error}") from error
    if isinstance(place, EmbeddedFiles):
        path = place.folder() / name
        refuse_code({name: path.read_bytes()}, place.holder, NOT_RUN.format(file=place.holder))
        return path
    if place is None:
        _refuse_pickle(carrier, name, revision)
        return None
    if place.commit is not None and not with_code:
        refuse_code_in(place.folder, [name], f"{carrier.record.hub_id} at {place.commit[2]}")
    return place.folder / name if (place.folder / name).is_file() else None


def _missing_weights(carrier: Carrier, name: str, revision: str | None) -> str:
    """Return the message for missing weights of a module, which are never embedded in an ONNX file."""
    assert carrier.record is not None
    copied = f"Copy it to {carrier.folders[0] / name}, or load" if carrier.folders else "Load"
    return (
        f"{carrier.name} does not contain the weights of the module {PurePosixPath(name).parent}. It requires {name} "
        f"of {carrier.record.hub_id} at {revision or carrier.record.hub_sha}. {copied} the model once with a "
        "connection to the Hub. For machines without a connection, copy it with `optimum-cli htp mirror`."
    )


def _refuse_pickle(carrier: Carrier, name: str, revision: str | None) -> None:
    """Raise ConfigLoadError if `name` is the pickle of a module, the last name that sentence_transformers tries."""
    record, file = carrier.record, PurePosixPath(name)
    assert record is not None
    known = {*(record.config_files or ()), *(one.name for one in record.embedded_files)}
    if file.name != _PICKLE or (file.parent / CONFIG).as_posix() not in known:
        return
    needed = f"{carrier.name} does not contain the weights of the module {file.parent}"
    wanted = file.with_name(WEIGHTS)
    if record.model_type != "hub":
        where = carrier.folders[0] / file.parent if carrier.folders else file.parent
        raise ConfigLoadError(
            f"{needed}, and it was exported from a local model. Copy {wanted} from that model's folder to {where}."
        )
    raise ConfigLoadError(
        f"{needed}, and {record.hub_id} at {revision or record.hub_sha} has no {wanted}. {name} is a "
        "pickle and is not loaded. Save the model as safetensors and export it again: "
        f'SentenceTransformer("{record.hub_id}").save_pretrained(FOLDER).'
    )
