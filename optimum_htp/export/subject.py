"""What is to be exported: a checkpoint's files, a model in memory, or both.

A model in memory was loaded from somewhere, and may have been changed since. Its source counts only as long as
its config and its tensors are still those of that commit; otherwise, and where that cannot be told, it is a local
model, made from that one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimum_htp.errors import ExportError, HFHubIntegrationError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.origin.checkpoint import Checkpoint, fetch_checkpoint
from optimum_htp.origin.names import CONFIG
from optimum_htp.origin.source import HubSource, locate_loaded_model
from optimum_htp.origin.weights import difference

__all__ = ["LoadedModel", "inspect_loaded_model"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """The subject of an export.

    Attributes:
        model: A model in memory; None where Optimum is to load it from the checkpoint.
        checkpoint: Its files; None for a model in memory that has none.
        derived_from: The Hub model that a model in memory was loaded from, where it is not that model any more.
        reason: Why it is not, or why that cannot be told.
    """

    model: Any
    checkpoint: Checkpoint | None
    derived_from: str | None = None
    reason: str | None = None

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
        reason = _difference(model, checkpoint, access, library)
        if reason is None:
            return LoadedModel(model, checkpoint)
        logger.warning(
            "The model in memory was loaded from %s, and is exported as a local model: %s.", source.repo_id, reason
        )
        return LoadedModel(model, checkpoint, derived_from=source.repo_id, reason=reason)
    if source.path is not None and (source.path / CONFIG).is_file():
        return LoadedModel(model, fetch_checkpoint(source, access, library))
    return LoadedModel(model, None)


def _difference(model: Any, checkpoint: Checkpoint, access: HubAccess, library: str | None) -> str | None:
    """Say why a model in memory is not, or may not be, what its commit holds; None where it is."""
    try:
        folder = fetch_checkpoint(checkpoint.source, access, library).folder
        return difference(model, folder)
    except (HFHubIntegrationError, OSError, ValueError, RuntimeError) as error:
        return f"whether its weights are those of the commit cannot be told ({error})"
