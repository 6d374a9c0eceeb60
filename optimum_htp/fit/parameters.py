"""The names and shapes of a model's weights, from the headers of its safetensors files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from optimum_htp.caching import LRUCache
from optimum_htp.errors import InvalidOnnxFileError, OptimumHTPError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.hubs.daemons import DaemonThreads
from optimum_htp.hubs.safetensors import SafetensorsFile, open_hub_safetensors, open_local_safetensors
from optimum_htp.libraries.names import WEIGHTS
from optimum_htp.masking import get_logger

__all__ = ["Parameters", "parameters_of"]

logger = get_logger(__name__)

Parameters = Mapping[str, tuple[int, ...]]

_SHARD: Final = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors", re.ASCII)
_MOST_SHARDS: Final = 8  # Headers to request from the Hub: one request each.
_OLD_NAMES: Final = {"gamma": "weight", "beta": "bias"}  # transformers renames these at loading.
_REMEMBERED: Final = 16  # Models, of about 100 KiB each.

_found: Final[LRUCache[tuple[str, str, str | bool | None], Parameters]] = LRUCache(_REMEMBERED)


def parameters_of(
    folder: Path | None, files: Iterable[str], access: HubAccess, commit: tuple[str, str] | None
) -> Parameters | None:
    """Return the shapes of a model's weights by name; None if they are not available.

    Args:
        folder: The folder of its local files; None if there are none.
        files: Names of all its files.
        access: Options for Hub requests.
        commit: Repo id and commit on the Hugging Face Hub, for files that are not local; None for no requests.
    """
    here = () if folder is None else (path.name for path in folder.glob("model*.safetensors"))
    names = _weight_files({*files, *here})
    if not names:
        return None
    try:
        if folder is not None and all((folder / name).is_file() for name in names):
            return _read(names, lambda name: open_local_safetensors(folder / name))
        if commit is None or access.local_files_only or len(names) > _MOST_SHARDS:
            return None
        return _found.get_or_make(  # Failures are not remembered, and results are remembered per token.
            (*commit, _token(access)), lambda: _read(names, lambda name: open_hub_safetensors(*commit, name, access))
        )
    except (OptimumHTPError, InvalidOnnxFileError, OSError, ValueError) as error:
        logger.debug("the shapes of the weights cannot be read: %s", error)
        return None


def _token(access: HubAccess) -> str | bool | None:
    from huggingface_hub import get_token

    return get_token() if access.token in (None, True) else access.token


def _weight_files(files: set[str]) -> tuple[str, ...]:
    """Return the safetensors files that contain all weights together; empty if there are none."""
    if WEIGHTS in files:
        return (WEIGHTS,)
    shards = sorted(name for name in files if (found := _SHARD.fullmatch(name)) and 0 < int(found[1]) <= int(found[2]))
    totals = {shard[-len("00000.safetensors") :] for shard in shards}
    complete = len(totals) == 1 and len(shards) == int(totals.pop()[:5])
    return tuple(shards) if complete else ()


def _read(names: tuple[str, ...], opened: Callable[[str], SafetensorsFile]) -> Parameters:
    with DaemonThreads(_MOST_SHARDS) as pool:
        files = [*pool.map(opened, names)]
    return {_present_name(name): tensor.shape for file in files for name, tensor in file.tensors.items()}


def _present_name(name: str) -> str:
    start, dot, last = name.rpartition(".")
    return start + dot + _OLD_NAMES.get(last, last)
