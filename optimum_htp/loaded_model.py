"""What is to be exported: a checkpoint's files, a model in memory, or both.

A model in memory was loaded from somewhere, and may have been changed since. Its source counts only as long as
its config is still the one of that commit; otherwise it is a local model, made from that one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from optimum_htp.checkpoint import Checkpoint, fetch_checkpoint
from optimum_htp.errors import ExportError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.source import HubSource, locate_loaded_model

__all__ = ["LoadedModel", "inspect_loaded_model"]

logger = logging.getLogger(__name__)

# What differs between a config on disk and the same config in a model, and does not change the graph.
_VOLATILE: Final = frozenset(
    {
        "_name_or_path",
        "_commit_hash",
        "_attn_implementation",
        "_attn_implementation_internal",
        "_attn_implementation_autoset",
        "architectures",
        "auto_map",
        "dtype",
        "torch_dtype",
        "transformers_version",
        "use_cache",
        "_diffusers_version",
    }
)


@dataclass(frozen=True)
class LoadedModel:
    """The subject of an export.

    Attributes:
        model: A model in memory; None where Optimum is to load it from the checkpoint.
        checkpoint: Its files; None for a model in memory that has none.
        derived_from: The Hub model that a changed model in memory was loaded from.
    """

    model: Any
    checkpoint: Checkpoint | None
    derived_from: str | None = None

    @property
    def name(self) -> str:
        """What errors call it."""
        if self.checkpoint is None:
            return type(self.model).__name__
        source = self.checkpoint.source
        return f"{source.repo_id} at {source.commit}" if isinstance(source, HubSource) else str(source.path)

    @property
    def library(self) -> str:
        """The library to export it with."""
        if self.model is None and self.checkpoint is not None:
            return self.checkpoint.library
        root = type(self.model).__module__.partition(".")[0]
        return root if root in ("diffusers", "timm", "sentence_transformers") else "transformers"

    @property
    def config(self) -> Mapping[str, Any]:
        """The part of its config that tells its task."""
        if self.model is None and self.checkpoint is not None:
            return self.checkpoint.config
        config = getattr(self.model, "config", None)
        known = {"architectures": [type(self.model).__name__], "_class_name": type(self.model).__name__}
        return {
            **known,
            "model_type": getattr(config, "model_type", None),
            "auto_map": getattr(config, "auto_map", None),
        }

    @contextmanager
    def reading_preprocessors_from(self, empty: Path) -> Iterator[None]:
        """Keep Optimum from asking the Hub for preprocessors at `config._name_or_path` while it exports.

        They are taken from the checkpoint, at its commit, or there are none.
        """
        config = getattr(self.model, "config", None)
        if config is None or not hasattr(config, "_name_or_path") or isinstance(config, dict):
            yield
            return
        before = config._name_or_path
        config._name_or_path = str(empty if self.checkpoint is None else self.checkpoint.folder)
        try:
            yield
        finally:
            config._name_or_path = before


def inspect_loaded_model(model: Any, access: HubAccess, library: str | None) -> LoadedModel:
    """Find out what a model in memory is, and fetch the configs and preprocessors that belong to it.

    Raises:
        HubUnreachableError: Its config names a Hub model that neither the Hub nor the cache can confirm.
    """
    known = LoadedModel(model, None)
    if known.library == "transformers" and not hasattr(model, "config"):
        raise ExportError(f"{known.name} has no config: it is not a model of a library that Optimum exports.")
    source = locate_loaded_model(model, access)
    if isinstance(source, HubSource):
        checkpoint = fetch_checkpoint(source, access, library, weights=False)
        if _is_changed(model, checkpoint):
            logger.warning(
                "The model in memory was loaded from %s and is of another class or config by now: it is exported "
                "as a local model.",
                source.repo_id,
            )
            return LoadedModel(model, checkpoint, derived_from=source.repo_id)
        return LoadedModel(model, checkpoint)
    if source.path is not None and (source.path / "config.json").is_file():
        return LoadedModel(model, fetch_checkpoint(source, access, library))
    return LoadedModel(model, None)


def _is_changed(model: Any, checkpoint: Checkpoint) -> bool:
    """Whether a model's config says something else than its checkpoint's, where that could change the graph."""
    config = model.config
    if isinstance(config, dict):  # a diffusers pipeline: its parts have configs of their own
        return False
    has_head = hasattr(model, str(getattr(model, "base_model_prefix", "")))
    if has_head and type(model).__name__ not in (checkpoint.config.get("architectures") or ()):
        return True  # its head cannot have come from the checkpoint
    stored = type(config).from_dict(dict(checkpoint.config)).to_dict()
    current = config.to_dict()
    return any(current.get(key) != stored.get(key) for key in {*current, *stored} - _VOLATILE)
