"""Adapters whose repo or folder also has a config: finds the base model at one commit.

An adapter's config names its base model. Libraries use that name as a repo at its newest commit, or as a path. Here
the base model is resolved once, and the libraries load the adapter from a folder whose config names the files of that
commit.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any, Final

from optimum_htp import plugins
from optimum_htp.errors import ExportError, InvalidModelReferenceError, MissingDependencyError, ModelNotFoundError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.libraries.repo_files import ADAPTER_CONFIG, base_to_load, read_json
from optimum_htp.onnxfile.copying import link_or_copy
from optimum_htp.origin.checkpoint import Checkpoint, fetch_checkpoint
from optimum_htp.origin.source import HubSource, LocalSource, locate

__all__ = ["beside_base", "commits_of", "fetch_base"]

_PREFIX: Final = "hf"  # The Hugging Face Hub.


def fetch_base(checkpoint: Checkpoint, access: HubAccess) -> Checkpoint | None:
    """Return the files of an adapter's base model; None if the checkpoint is not an adapter.

    A base model that is an adapter too is an error, as is a path in the config of a repo on a Hub.
    """
    if (name := base_to_load(checkpoint.folder)) is None:
        return None
    adapter = checkpoint.source.reference if isinstance(checkpoint.source, HubSource) else str(checkpoint.source.path)
    if importlib.util.find_spec("peft") is None:
        raise MissingDependencyError(f"{adapter} is an adapter of {name}: run `pip install peft` to export both.")
    named = f"{ADAPTER_CONFIG} of {adapter} names {name!r} as its base model"
    revision = _content(checkpoint).get("revision")
    try:
        source = _located(checkpoint, name, revision if isinstance(revision, str) and revision else None, access)
    except InvalidModelReferenceError as error:
        raise ExportError(
            f"{named}, which is not a repo of a Hub. Paths are accepted only from your own folder. Run `hf download "
            f"{adapter} --local-dir FOLDER`, set base_model_name_or_path in FOLDER/{ADAPTER_CONFIG} to the path, and "
            "export FOLDER."
        ) from error
    except ModelNotFoundError as error:
        raise type(error)(f"{named}. {error}") from error
    base = fetch_checkpoint(source, access, None)
    if base_to_load(base.folder) is not None:
        raise ExportError(
            f"{named}, which is also an adapter. Merge them first with peft's `merge_and_unload().save_pretrained("
            "FOLDER)`, and export FOLDER."
        )
    return base


def beside_base(checkpoint: Checkpoint, base: Checkpoint, folder: Path) -> None:
    """Fill a folder with the files of an adapter, and with a config that names the files of its base model."""
    folder.mkdir()
    for name in checkpoint.files:
        file = checkpoint.folder / name
        if "/" not in name and name != ADAPTER_CONFIG and file.is_file():
            link_or_copy(file.absolute(), folder / name)
    content = {**_content(checkpoint), "base_model_name_or_path": str(base.folder.absolute()), "revision": None}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(content), encoding="utf-8")


def commits_of(*checkpoints: Checkpoint) -> dict[str, str]:
    """Return the repos of Hub checkpoints, as a user types them, with their commits."""
    sources = [checkpoint.source for checkpoint in checkpoints]
    return {source.reference: source.commit for source in sources if isinstance(source, HubSource)}


def _located(checkpoint: Checkpoint, name: str, revision: str | None, access: HubAccess) -> HubSource | LocalSource:
    """Locate a base model. For an adapter from a Hub, it is a repo of that Hub, never a local folder of that name."""
    adapter = checkpoint.source
    if isinstance(adapter, LocalSource):
        return locate(name, None if Path(name).exists() else revision, access)
    hub = _PREFIX if adapter.provider == plugins.HUGGING_FACE else adapter.provider
    return locate(f"{hub}://{name}", revision, access)


def _content(checkpoint: Checkpoint) -> dict[str, Any]:
    content = read_json(checkpoint.folder / ADAPTER_CONFIG)
    return content if isinstance(content, dict) else {}
