"""What makes a sentence_transformers model of a stamped ONNX file: its modules, their configs and their weights.

These files lie beside the transformer in its repo, and only sentence_transformers reads them. So they come when it
asks: configs that travel in the ONNX file from there, the others and weights from the file's commit.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from optimum_htp.errors import ConfigLoadError, SeveralModelsError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.loading.named import named
from optimum_htp.origin.code_references import refuse_code, refuse_code_in
from optimum_htp.origin.config_folder import find
from optimum_htp.origin.embedded import NOT_RUN, EmbeddedFiles

__all__ = ["sentence_file"]


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
    place = find(carrier, name, found.access, found.options.get("revision"), with_code=with_code)
    if isinstance(place, EmbeddedFiles):
        path = place.folder() / name
        refuse_code({name: path.read_bytes()}, place.holder, NOT_RUN.format(file=place.holder))
        return path
    if place is None:
        return None
    if place.commit is not None and not with_code:
        refuse_code_in(place.folder, [name], f"{carrier.record.hub_id} at {place.commit[2]}")
    return place.folder / name if (place.folder / name).is_file() else None
