"""Make the records of exports, and write records and standard header fields into ONNX files."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from optimum_htp.errors import ArgumentError, FileTooLargeError, PluginError
from optimum_htp.hierarchy.tags import TagWriter, check_taggable, without_traces
from optimum_htp.metadata import EMBEDDED_ZIP, ORIGINAL, OWN_KEYS, SHORT_COMMIT, STANDARD_KEYS, ExportMetadata
from optimum_htp.onnxfile import NodeVisitor, OpenModel
from optimum_htp.stamping.originals import AUTHOR, DOMAINS, LICENSE, PRODUCER, original_of
from optimum_htp.version import __version__

if TYPE_CHECKING:
    from optimum_htp.hubs.base import RepoInfo
    from optimum_htp.origin.checkpoint import Checkpoint

__all__ = ["export_id", "export_record", "is_reproducible", "now", "plugin_properties", "stamp", "with_hub_facts"]


def stamp(
    path: Path,
    metadata: ExportMetadata,
    *,
    author: str | None,
    extra: Mapping[str, str],
    carried: Mapping[str, str] = MappingProxyType({}),
    tags: TagWriter | None = None,
    archive: str | None = None,
    external_data: bool | None = False,
    is_export: bool = False,
) -> ExportMetadata:
    """Write a record into an ONNX file, and return it as written. An existing record is replaced.

    Args:
        path: The file. It is unchanged if it cannot be written.
        metadata: The record. `original_producer` is filled in from the file.
        author: The author of the model.
        extra: Properties from plugins.
        carried: Properties of other tools, from the file that this file was made from. `strip` keeps them.
        tags: Tags to write into the nodes in the same pass.
        archive: The archive of embedded files, if this file contains it.
        external_data: Whether to move the weights to a new file next to the model. None to do so only if the file
            would be too large.
        is_export: Whether this process exported the file. If so, information about this machine is removed from the
            nodes.
    """
    with OpenModel.at(path) as model:
        header = model.header
        if tags is not None:
            check_taggable(model)
        before = original_of(header)
        named = (before.texts.get(name, "") for name in ("producer_name", "producer_version"))
        metadata = dataclasses.replace(metadata, original_producer=" ".join(filter(None, named)) or None)
        taken = before.metadata.keys() | extra.keys() | carried.keys()  # Values of other tools are kept.
        known = {AUTHOR: author, LICENSE: metadata.license}
        standard = {key: value for key, value in known.items() if value and key not in taken}
        texts = {"producer_name": PRODUCER, "producer_version": __version__}
        if before.texts.get("domain", "") == "":
            texts["domain"] = DOMAINS[metadata.model_type]
        if before.texts.get("doc_string", "") == "":
            texts["doc_string"] = _doc_string(metadata)
        properties = {
            **{key: value for key, value in before.replaced.items() if key not in OWN_KEYS},
            **carried,
            **standard,
            **extra,
            **(tags.metadata if tags is not None else {}),
            **metadata.to_properties(),
            STANDARD_KEYS: json.dumps(standard, ensure_ascii=False, separators=(",", ":")),
        }
        version = header.ir_version if tags is None else tags.ir_version(header.ir_version)
        if version != header.ir_version:
            before = dataclasses.replace(before, ir_version=header.ir_version)
        write = functools.partial(
            model.rewrite,
            metadata={
                **properties,
                ORIGINAL: before.note(texts, properties, extra),
                **({} if archive is None else {EMBEDDED_ZIP: archive}),
            },
            drop=(OWN_KEYS | before.dropped).__contains__,
            ir_version=version if version != header.ir_version else None,
            texts=texts,
        )

        def nodes() -> NodeVisitor | None:
            if tags is not None:
                return tags.visitor()
            return without_traces if is_export else None

        if external_data is not None:
            write(nodes=nodes(), external_data=external_data)
            return metadata
        try:
            write(nodes=nodes())
        except FileTooLargeError:
            write(nodes=nodes(), external_data=True)
    return metadata


def is_reproducible() -> bool:
    """Whether the user requests reproducible exports (https://reproducible-builds.org/specs/source-date-epoch/)."""
    return bool(os.environ.get("SOURCE_DATE_EPOCH"))


def now() -> str:
    """Return the time of an export: UTC, ISO 8601 with `Z`; the time in `SOURCE_DATE_EPOCH` if it is set."""
    if is_reproducible():
        text = os.environ["SOURCE_DATE_EPOCH"]
        try:
            moment = datetime.fromtimestamp(int(text), timezone.utc)
        except (ValueError, OverflowError) as error:
            raise ArgumentError(f"SOURCE_DATE_EPOCH is {text!r}. Set it to seconds since 1970.") from error
    else:
        moment = datetime.now(timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


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

    A model in memory can have no checkpoint. A local model can be made from a base model, and its weights come from
    the base commits, by repo.
    """
    from optimum_htp import plugins
    from optimum_htp.origin.source import HubSource

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
    record = dataclasses.replace(
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
    return with_hub_facts(dataclasses.replace(record, weight_files=digests or None), source.info)


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
    from optimum_htp import plugins

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


def with_hub_facts(record: ExportMetadata, info: RepoInfo) -> ExportMetadata:
    """Return a record with the facts that a Hub has about a model."""
    counted = not is_reproducible()  # Counters change from hour to hour.
    return dataclasses.replace(
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


def _doc_string(metadata: ExportMetadata) -> str:
    model = metadata.hub_id or "a local model"
    commit = f" at commit {metadata.hub_sha}" if metadata.hub_sha else ""
    return (
        f"Exported from {model}{commit} for {metadata.task}\n"
        f"with {PRODUCER} {metadata.export_version} on {metadata.export_timestamp}."
    )
