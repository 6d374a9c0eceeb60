"""Configs of transformers from content in memory: the same result as `AutoConfig` with a folder.

transformers creates a label for each of `num_labels`, and several models a type for each of `num_hidden_layers`,
before any check of the number. Models are built with that number of layers and experts. A config may come from a Hub
or from the author of a file, so such numbers are limited here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from optimum_htp.parsing import items_of

__all__ = ["config_fault", "config_of_content", "generation_config_of_content", "needs_folder"]

# Arguments of `from_pretrained` that locate a config, and do not change its values.
_PLACES: Final = (
    "cache_dir",
    "force_download",
    "resume_download",
    "proxies",
    "token",
    "use_auth_token",
    "local_files_only",
    "revision",
    "code_revision",
    "trust_remote_code",
    "subfolder",
    "user_agent",
    "_commit_hash",
)


def needs_folder(content: Mapping[str, Any], options: Mapping[str, Any]) -> bool:
    """Whether only transformers itself can load a config, because its type is unknown or is mapped to another type.

    `options` are keyword arguments for `AutoConfig.from_pretrained`.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = content.get("model_type")
    renamed = kind == "mistral" and "layer_types" in content
    return kind not in CONFIG_MAPPING or renamed or "gguf_file" in options or "_configuration_file" in options


def config_of_content(content: dict[str, Any], name: str | os.PathLike[str], **options: Any) -> Any:
    """Return the result of `AutoConfig.from_pretrained` for a folder with this `config.json`, of a known type.

    The content is changed. The config gets `name` as its origin.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kept = {key: value for key, value in options.items() if key not in _PLACES}
    kind = CONFIG_MAPPING[content["model_type"]]
    return kind.from_dict({**content, "_commit_hash": None}, name_or_path=os.fspath(name), **kept)


def generation_config_of_content(content: dict[str, Any], **options: Any) -> Any:
    """Return the result of `GenerationConfig.from_pretrained` for a folder with this `generation_config.json`."""
    from transformers import GenerationConfig

    kept = {key: value for key, value in options.items() if key not in (*_PLACES, "config_file_name")}
    made = GenerationConfig.from_dict(content, **kept)
    config = made[0] if isinstance(made, tuple) else made
    config._original_object_hash = hash(config)  # transformers uses this hash to detect changes by the user.
    return made


# The highest counts, by the last word of the key.
_HIGHEST: Final = {
    **dict.fromkeys(("layers", "layer", "blocks", "depths", "experts", "stages", "codebooks", "streams"), 1 << 12),
    **dict.fromkeys(("labels", "classes"), 1_000_000),
}


def config_fault(config: Any) -> str | None:
    """Return why a parsed config must not be passed to a library; None if it may be."""
    if not isinstance(config, Mapping):
        return f"it must be a JSON object, but is a {type(config).__name__}"
    for _, key, value in items_of(config):
        highest = _HIGHEST.get(key.rpartition("_")[2])
        for count in value if isinstance(value, list) else (value,):
            if highest is not None and isinstance(count, (int, float)) and count > highest:
                return f"{key} is {count:.3g}; at most {highest} is accepted"
    return None
