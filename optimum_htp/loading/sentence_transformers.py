"""What makes a sentence_transformers model of a stamped ONNX file: its modules, their configs and their weights.

These files lie beside the transformer in its repo, and only sentence_transformers reads them. So they come when it
asks: configs that travel in the ONNX file from there, the others and weights from the file's commit.
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
"""What sentence_transformers asks for where a module has no `model.safetensors`."""


def sentence_file(
    source: str | os.PathLike[str],
    name: str,
    access: HubAccess,
    revision: str | None = None,
    *,
    with_code: bool = False,
) -> Path | None:
    """Return a file that sentence_transformers misses in a folder or a repo of stamped ONNX files.

    Args:
        source: The folder or the repo.
        name: The file, relative to it, with `/`.
        access: How to reach the Hub.
        revision: Of the repo; for a folder it overrides the commit of the file.
        with_code: Whether the user trusts code of the model's repo.

    Returns:
        Its path, in a folder of embedded files or in the cache; None for what is not of a sentence_transformers
        model, and for files that the commit does not have.

    Raises:
        ConfigLoadError: The weights of a module are nowhere, or are a pickle.
        UntrustedCodeError: The file refers to code, and is embedded, or code is not trusted.
        HFHubIntegrationError: The Hub does not give the file; the subclass says why.
    """
    options = {**dataclasses.asdict(access), "revision": revision}
    try:
        found = named(source, options, failed=not Path(source).is_dir())
        carrier = found.carrier() if found is not None else None
    except (SeveralModelsError, ConfigLoadError):  # whose file it would be cannot be told
        return None
    if found is None or carrier is None or carrier.record is None:
        return None
    with_code = with_code and carrier.record.model_type == "hub"  # no other code could be trusted
    revision = found.options.get("revision")
    try:
        place = find(carrier, name, found.access, revision, with_code=with_code)
    except _AWAY as error:
        if PurePosixPath(name).name != WEIGHTS:
            raise
        raise type(error)(f"{_not_carried(carrier, name, revision)} {error}") from error
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


def _not_carried(carrier: Carrier, name: str, revision: str | None) -> str:
    """Return what the weights of a module are, for a message: they never travel in an ONNX file."""
    assert carrier.record is not None
    copied = f"Copy it to {carrier.folders[0] / name}, or load" if carrier.folders else "Load"
    return (
        f"{carrier.name} does not carry the weights of the module {PurePosixPath(name).parent}: {name} of "
        f"{carrier.record.hub_id} at {revision or carrier.record.hub_sha} is needed. {copied} the model once with "
        "the Hub at hand; `optimum-cli htp mirror` copies it for machines that reach no Hub."
    )


def _refuse_pickle(carrier: Carrier, name: str, revision: str | None) -> None:
    """Say where the weights of a module could come from: they have been asked for under every name.

    Raises:
        ConfigLoadError: It is the last of these names.
    """
    record, file = carrier.record, PurePosixPath(name)
    assert record is not None
    known = {*(record.config_files or ()), *(one.name for one in record.embedded_files)}
    if file.name != _PICKLE or (file.parent / CONFIG).as_posix() not in known:
        return
    needed, wanted = f"{carrier.name} does not carry the weights of the module {file.parent}", file.with_name(WEIGHTS)
    if record.model_type != "hub":
        where = carrier.folders[0] / file.parent if carrier.folders else file.parent
        raise ConfigLoadError(
            f"{needed}, and it was exported from a local model. Copy {wanted} from that model's folder to {where}."
        )
    raise ConfigLoadError(
        f"{needed}, and {record.hub_id} at {revision or record.hub_sha} has no {wanted}. {name}, which it "
        "may have, is a pickle and is not loaded. Save the model as safetensors, and export that: "
        f'SentenceTransformer("{record.hub_id}").save_pretrained(FOLDER).'
    )
