"""Make the record of an export from the known facts about the model."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from optimum_htp import plugins
from optimum_htp.errors import PluginError
from optimum_htp.metadata import SHORT_COMMIT, ExportMetadata
from optimum_htp.origin.checkpoint import Checkpoint
from optimum_htp.origin.source import HubSource
from optimum_htp.stamping.stamp import is_reproducible, now
from optimum_htp.version import __version__

if TYPE_CHECKING:
    from optimum_htp.hubs.base import RepoInfo

__all__ = ["export_id", "export_record", "plugin_properties"]


def export_record(
    checkpoint: Checkpoint | None,
    *,
    task: str,
    library: str,
    model_class: str | None,
    base_model: str | None = None,
    base_commits: Mapping[str, str] | None = None,
) -> ExportMetadata:
    """Return the record of an export, without the names of its files.

    Args:
        checkpoint: The model's files; None for a model in memory without files.
        task: The Optimum task.
        library: The library name that Optimum uses for the export.
        model_class: Name of the exported class, if known.
        base_model: The model that a local model was made from.
        base_commits: The commits of the repos that its weights come from.
    """
    record = ExportMetadata(
        model_type="local",
        export_version=__version__,
        export_timestamp=now(),
        task=task,
        export_library=library,
        model_class=model_class,
        base_model=base_model,
        base_commits=base_commits or None,
        preprocessors=checkpoint.preprocessors if checkpoint is not None else (),
    )
    if checkpoint is None or base_model is not None or not isinstance(checkpoint.source, HubSource):
        return record
    source = checkpoint.source
    record = replace(
        record,
        model_type="hub",
        hub_provider=None if source.provider == plugins.HUGGING_FACE else source.provider,
        hub_id=source.repo_id,
        hub_sha=source.commit,
        hub_revision=source.commit[:SHORT_COMMIT],
        hub_ref=source.ref if source.ref != source.commit else None,
        config_files=checkpoint.config_files if checkpoint.complete else None,
    )
    if source.info is None:
        return record
    digests = {name: digest for name in checkpoint.weight_files if (digest := source.info.digests.get(name))}
    return _with_hub_facts(replace(record, weight_files=digests or None), source.info)


def export_id(folder: Path, names: Sequence[str]) -> str:
    """Return an identifier that the files of one export share.

    It is random. For an export that can be repeated byte for byte, it is a digest of the files before they are
    stamped.
    """
    if not is_reproducible():
        return uuid.uuid4().hex
    digest = hashlib.sha256()
    for name in names:
        with (folder / name).open("rb") as stream:
            while piece := stream.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()[:32]


def plugin_properties(record: ExportMetadata, info: RepoInfo | None) -> dict[str, str]:
    """Return the properties that plugins add.

    Raises:
        PluginError: A plugin fails, or sets a key of this package.
    """
    properties: dict[str, str] = {}
    for plugin, added in plugins.answers("optimum_htp_metadata", metadata=record, info=info):
        if isinstance(added, PluginError):
            raise added
        for key, value in added.items():
            if key.startswith(("hf_", "htp.")):
                raise PluginError(
                    f"The plugin {plugin!r} of optimum-htp sets the metadata key {key!r}, which belongs to "
                    "optimum-htp. Upgrade or uninstall the plugin."
                )
            properties[key] = str(value)
    return properties


def _with_hub_facts(record: ExportMetadata, info: RepoInfo) -> ExportMetadata:
    counted = not is_reproducible()  # Counters change from hour to hour.
    return replace(
        record,
        pipeline_tag=info.pipeline_tag,
        library_name=info.library_name,
        base_model=info.base_model,
        license=info.license,
        model_downloads=info.downloads if counted else None,
        model_likes=info.likes if counted else None,
        private=info.private,
        gated=info.gated,
    )
