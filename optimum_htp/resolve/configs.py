"""Loads configs as transformers does, from a folder or from an ONNX file itself. A process remembers them."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.caching import LRUCache
from optimum_htp.errors import ConfigLoadError
from optimum_htp.libraries.config_content import (
    config_fault,
    config_of_content,
    generation_config_of_content,
    needs_folder,
)
from optimum_htp.libraries.names import CONFIG, GENERATION_CONFIG
from optimum_htp.libraries.repo_files import read_json
from optimum_htp.libraries.tasks import infer_library
from optimum_htp.metadata import ExportMetadata
from optimum_htp.parsing import json_or_none
from optimum_htp.resolve.commit_files import ConfigFolder
from optimum_htp.resolve.embedded import EmbeddedFiles

if TYPE_CHECKING:
    from transformers import GenerationConfig, PretrainedConfig

__all__ = ["ConfigSource", "embedded_object", "folder_of", "load_config", "load_generation_config"]

ConfigSource = ConfigFolder | EmbeddedFiles

_configs: Final[LRUCache[tuple[Any, ...], bytes]] = LRUCache(256)  # About 2 KiB each.


def folder_of(source: ConfigSource) -> Path:
    """Return a folder with the config. It is created if the config is embedded."""
    return source.folder() if isinstance(source, EmbeddedFiles) else source.folder


def embedded_object(source: EmbeddedFiles, name: str) -> dict[str, Any]:
    """Return the content of an embedded config, if it may be passed to a library."""
    content = json_or_none(source.read((name,))[name])
    fault = "it is not JSON" if content is None else config_fault(content)
    if fault is not None:
        raise ConfigLoadError(f"The {name} in {source.holder} cannot be loaded: {fault}.")
    return dict(content)


def load_config(
    source: ConfigSource, metadata: ExportMetadata | None, *, trust_remote_code: bool = False, anew: bool = False
) -> PretrainedConfig:
    """Load a `config.json` as the class that it names. Each caller gets its own copy.

    With `anew`, the file is read even if this process remembers its content.

    Raises:
        ConfigLoadError: It is missing, damaged, or needs untrusted code.
        EmbeddedFilesError: It is embedded, and does not match the record.
    """
    library = metadata.export_library if metadata is not None else None
    key: tuple[Any, ...]
    if isinstance(source, EmbeddedFiles):
        key = (source.digest, library, trust_remote_code)
    elif source.commit is None:
        return _read_config(source.folder, metadata, trust_remote_code)
    else:
        key = (*source.commit, library, trust_remote_code)

    def read() -> bytes:
        if isinstance(source, EmbeddedFiles):
            return pickle.dumps(_embedded_config(source, metadata, trust_remote_code))
        return pickle.dumps(_read_config(source.folder, metadata, trust_remote_code))

    # Pickled, because Optimum changes the config that it gets, and unpickling is the fastest copy.
    config: PretrainedConfig = pickle.loads(_configs.get_or_make(key, read, anew=anew))  # Written by this process.
    if isinstance(source, EmbeddedFiles):
        config.name_or_path = os.fspath(source.path)  # transformers uses it to find the model's other files.
    return config


def load_generation_config(source: ConfigSource | None, config: Any) -> GenerationConfig:
    """Load the generation config next to a config, or create it from the config if it is missing."""
    from transformers import GenerationConfig

    if isinstance(source, EmbeddedFiles):
        if GENERATION_CONFIG in source.names:
            content = embedded_object(source, GENERATION_CONFIG)
            return generation_config_of_content(content)
    elif source is not None and (source.folder / GENERATION_CONFIG).is_file():
        return GenerationConfig.from_pretrained(source.folder)
    return GenerationConfig.from_model_config(config)


def _embedded_config(source: EmbeddedFiles, metadata: ExportMetadata | None, trust_remote_code: bool) -> Any:
    content = embedded_object(source, CONFIG)
    try:
        if _is_timm(content, metadata):
            return _timm_config(content, source.path)
        if not needs_folder(content, {}):
            return config_of_content(content, source.path)
    except Exception as error:  # The class of the config gets untrusted values, and can raise any exception.
        raise ConfigLoadError(
            f"The config in {source.holder} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    return _read_config(source.folder(), metadata, trust_remote_code)


def _read_config(folder: Path, metadata: ExportMetadata | None, trust_remote_code: bool) -> PretrainedConfig:
    from transformers import AutoConfig

    content = read_json(folder / CONFIG)
    fault = config_fault(content) if content is not None else None  # transformers itself reports a missing config.
    source = metadata.source if metadata is not None else "the model"
    if fault is not None:
        raise ConfigLoadError(f"The config of {source} in {folder} cannot be loaded: {fault}.")
    try:
        if isinstance(content, dict) and _is_timm(content, metadata):
            return _timm_config(content, folder)
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # The class of the config gets untrusted values, and can raise any exception.
        raise ConfigLoadError(
            f"The config of {source} in {folder} cannot be loaded: {type(error).__name__}: {error}"
        ) from error


def _is_timm(content: Mapping[str, Any], metadata: ExportMetadata | None) -> bool:
    """Whether a config is for a timm model: according to the record, or if it has no model type."""
    if metadata is not None and metadata.export_library is not None:
        return metadata.export_library == "timm"
    return not content.get("model_type") and infer_library((), content) == "timm"


def _timm_config(content: Mapping[str, Any], path: Path | str) -> PretrainedConfig:
    """Return transformers' config of a timm model, with its labels. Only timm knows those of ImageNet."""
    from transformers import PretrainedConfig

    content = {**content, "name_or_path": os.fspath(path)}
    try:
        from transformers import TimmWrapperConfig

        return TimmWrapperConfig.from_dict(content)
    except (ImportError, RuntimeError):  # timm is not installed, or cannot be imported with the installed torchvision.
        return PretrainedConfig.from_dict(content, num_labels=content.get("num_classes"))
