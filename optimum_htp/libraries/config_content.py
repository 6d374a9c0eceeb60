"""Configs of transformers from what is in memory: what `AutoConfig` makes of a folder, without the folder.

transformers makes a label of each of `num_labels`, and several models a type of each of `num_hidden_layers`, before
anybody has looked at the number; a model is made of as many layers and experts. A config comes from a Hub, or from
the author of a file, so such numbers are bounded here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, Final

__all__ = ["config_fault", "config_of_content", "generation_config_of_content", "needs_folder"]

# Arguments of `from_pretrained` that say where a config is, and nothing of what is in it.
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
    """Whether only transformers itself can tell what a config is: one of a type that it does not know, or that it
    takes for another.

    Args:
        content: Of a `config.json`.
        options: Keyword arguments for `AutoConfig.from_pretrained`.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = content.get("model_type")
    renamed = kind == "mistral" and "layer_types" in content
    return kind not in CONFIG_MAPPING or renamed or "gguf_file" in options or "_configuration_file" in options


def config_of_content(content: dict[str, Any], name: str | os.PathLike[str], **options: Any) -> Any:
    """Return what `AutoConfig.from_pretrained` returns for a folder with such a `config.json`.

    Args:
        content: Of the `config.json`; it is changed. A type that transformers knows.
        name: What the config says that it was loaded from.
        **options: Keyword arguments for `from_pretrained`.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kept = {key: value for key, value in options.items() if key not in _PLACES}
    kind = CONFIG_MAPPING[content["model_type"]]
    return kind.from_dict({**content, "_commit_hash": None}, name_or_path=os.fspath(name), **kept)


def generation_config_of_content(content: dict[str, Any], **options: Any) -> Any:
    """Return what `GenerationConfig.from_pretrained` returns for a folder with such a `generation_config.json`.

    Args:
        content: Of the `generation_config.json`.
        **options: Keyword arguments for `from_pretrained`.
    """
    from transformers import GenerationConfig

    kept = {key: value for key, value in options.items() if key not in (*_PLACES, "config_file_name")}
    made = GenerationConfig.from_dict(content, **kept)
    config = made[0] if isinstance(made, tuple) else made
    config._original_object_hash = hash(config)  # by which transformers tells whether somebody has changed it
    return made


# The highest counts, by the last word of the key.
_HIGHEST: Final = {
    **dict.fromkeys(("layers", "layer", "blocks", "depths", "experts", "stages", "codebooks", "streams"), 1 << 12),
    **dict.fromkeys(("labels", "classes"), 1_000_000),
}


def config_fault(config: Any) -> str | None:
    """Return what is wrong with a parsed config, None where it can be given to a library."""
    if not isinstance(config, Mapping):
        return f"it has to be a JSON object, and is a {type(config).__name__}"
    for key, value in _items(config):
        highest = _HIGHEST.get(key.rpartition("_")[2])
        for count in value if isinstance(value, list) else (value,):
            if highest is not None and isinstance(count, (int, float)) and count > highest:
                return f"{key} is {count:.3g}, and more than {highest} are nobody's"
    return None


def _items(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the items of a config and of the configs in it. Deep ones have been refused as JSON."""
    for key, value in config.items():
        yield str(key), value
        for inner in value if isinstance(value, list) else (value,):
            if isinstance(inner, Mapping):
                yield from _items(inner)
