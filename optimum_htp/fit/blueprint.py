"""Facts about a model without building it: from its config, the source of its class and the shapes of its weights.

The names and shapes of its weights are in the headers of its safetensors files.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from optimum_htp.caching import LRUCache
from optimum_htp.errors import OptimumHTPError
from optimum_htp.hierarchy.tree import loose_shape
from optimum_htp.hubs.base import HubAccess
from optimum_htp.hubs.daemons import DaemonThreads
from optimum_htp.hubs.safetensors import SafetensorsFile, open_hub_safetensors, open_local_safetensors
from optimum_htp.libraries.class_sources import default_in_config, source_of_model
from optimum_htp.libraries.config_content import config_fault
from optimum_htp.libraries.names import WEIGHTS
from optimum_htp.libraries.tasks import architectures
from optimum_htp.masking import get_logger

__all__ = ["Blueprint", "Parameters", "blueprint_of_parameters", "counted", "parameters_of"]

logger = get_logger(__name__)

Parameters = Mapping[str, tuple[int, ...]]

_SHARD: Final = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors", re.ASCII)
_MOST_SHARDS: Final = 8  # Headers to request from the Hub: one request each.
_OLD_NAMES: Final = {"gamma": "weight", "beta": "bias"}  # transformers renames these at loading.
_REMEMBERED: Final = 16  # Models, of about 100 KiB each.

_found: Final[LRUCache[tuple[str, str, str | bool | None], Parameters]] = LRUCache(_REMEMBERED)


@dataclass(frozen=True)
class Blueprint:
    """Facts about a model without its weights.

    Attributes:
        inputs: Names of the inputs of its `forward`.
        main_input: Name of the main input.
        generates: Whether it generates sequences, so it may have past key values.
        layers: Number of layers, if its config contains one number.
        names: Names of its parameters and buffers.
        prefixes: First parts of names that a head of this model may put before those of the model.
        shapes: Number of parameters of each shape, in the form of `loose_shape`.
    """

    inputs: frozenset[str]
    main_input: str | None
    generates: bool
    layers: int | None
    names: frozenset[str]
    prefixes: frozenset[str]
    shapes: Mapping[tuple[int, ...], int]


def blueprint_of_parameters(
    config: Mapping[str, Any], class_name: str | None, parameters: Parameters
) -> Blueprint | None:
    """Return the facts about a model of transformers from its config and the shapes of its weights.

    Without a class name, the class is that of the config. None if the facts are incomplete: packed weights, or a
    model type that transformers does not have.
    """
    if config_fault(config) is not None or config.get("quantization_config") is not None or not parameters:
        return None
    model_type = str(config.get("model_type"))
    source = source_of_model(model_type, class_name or next(iter(architectures(config)), None))
    if source is None:
        return None
    layers = None
    if (attribute := default_in_config(model_type, "num_hidden_layers")) is not None:
        layers = config.get(attribute[0], config.get("num_hidden_layers", attribute[1]))
    return Blueprint(
        inputs=source.inputs,
        main_input=source.main_input,
        generates=source.generates,
        layers=layers if isinstance(layers, int) else None,
        names=frozenset(parameters),
        prefixes=frozenset({model_type, source.prefix}),
        shapes=counted(parameters.values()),
    )


def counted(shapes: Iterable[Iterable[int]]) -> Mapping[tuple[int, ...], int]:
    """Return the number of matrices of each shape, in the form of `loose_shape`."""
    found = Counter(map(loose_shape, shapes))
    return {shape: count for shape, count in found.items() if len(shape) > 1}


def parameters_of(
    folder: Path | None, files: Iterable[str], access: HubAccess, commit: tuple[str, str] | None
) -> Parameters | None:
    """Return the shapes of a model's weights by name, from its safetensors files; None if they are not available.

    The files are in a local folder, or in a repo of the Hugging Face Hub at a commit; None for no requests.
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
    except (OptimumHTPError, OSError, ValueError) as error:
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
