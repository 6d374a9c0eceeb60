"""Stamping ONNX files that something else exported: Optimum, torch, or a repo for transformers.js.

The model is looked up once. For each file the task is told by the graph where the graph tells it, and a file
that plainly is not an export of the model is refused.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from optimum_htp import plugins
from optimum_htp.errors import (
    ExportError,
    HubUnreachableError,
    InvalidModelReferenceError,
    MetadataError,
    MisfitError,
)
from optimum_htp.fit.graphs import graph_misfit
from optimum_htp.fit.parameters import Parameters, parameters_of
from optimum_htp.hierarchy.traces import warn_of_traces
from optimum_htp.hubs.base import HubAccess, RepoInfo
from optimum_htp.libraries.names import EXPORT_MANIFEST
from optimum_htp.libraries.tasks import WITH_PAST, canonical_task, class_for_task, infer_task, is_task
from optimum_htp.masking import get_logger
from optimum_htp.metadata import SHORT_COMMIT, ExportMetadata
from optimum_htp.onnxfile import Graph, read_graph
from optimum_htp.onnxfile.unchanged import check_of, checked_before_replacing
from optimum_htp.origin.checkpoint import Checkpoint, fetch_checkpoint
from optimum_htp.origin.source import HubSource, locate
from optimum_htp.resolve.embedding import ALL, Embedding, check_choice, embedding_of
from optimum_htp.resolve.export_manifest import manifest_beside
from optimum_htp.stamping.embed import with_embedded
from optimum_htp.stamping.new_record import export_record, plugin_properties
from optimum_htp.stamping.stamp import is_reproducible, now, stamp
from optimum_htp.version import __version__

__all__ = ["Injection", "inject_hub_metadata", "look_up", "with_past_of"]

logger = get_logger(__name__)

# How inputs and outputs of key values are called by Optimum, and by transformers' exporters.
_PAST: Final = ("past_key_values", "present", "cache.", "input.cache.", "output.cache.")
# The parts of an encoder-decoder model as Optimum and transformers.js name them, with a suffix for the variant.
_PART: Final = re.compile(r"(?:encoder_model|decoder(?:_with_past)?_model(?:_merged)?)(?P<variant>.*)\.onnx")


@dataclass(frozen=True)
class Injection:
    """A model that files are to be stamped with. Those that are stamped with one of these belong together.

    Attributes:
        checkpoint: The model's files.
        access: How its Hub was reached.
        embed: What of them travels in the ONNX files: `all`, `config` or `none`.
        external_data: Whether to move the weights of each file to a new file next to it.
        timestamp, export_id: What the files that are stamped have in common.
        seen: The files that were looked at.
    """

    checkpoint: Checkpoint
    access: HubAccess = field(default_factory=HubAccess)
    embed: str = ALL
    external_data: bool = False
    timestamp: str = field(default_factory=now)
    export_id: str | None = field(default_factory=lambda: None if is_reproducible() else uuid.uuid4().hex)
    seen: set[Path] = field(default_factory=set, repr=False)

    def embedding(self, path: Path) -> Embedding | None:
        """Return the files that travel with a file's model, packed once for all of its files.

        Where transformers' exporters wrote the file, what they noted beside it is one of them.
        """
        manifest = manifest_beside(path)
        return self._packed(None if manifest is None else manifest.to_bytes())

    @functools.cached_property
    def _packed(self) -> Callable[[bytes | None], Embedding | None]:
        found = self.checkpoint

        @functools.cache
        def packed(manifest: bytes | None) -> Embedding | None:
            own = {} if manifest is None else {EXPORT_MANIFEST: manifest}
            return embedding_of(found.folder, found.config_files, found.library, self.embed, own=own)

        return packed

    @property
    def info(self) -> RepoInfo | None:
        """What the Hub said of the model."""
        source = self.checkpoint.source
        return source.info if isinstance(source, HubSource) else None

    def record(
        self, path: Path, siblings: Iterable[str] = (), *, task: str | None = None, force: bool = False
    ) -> ExportMetadata:
        """Return the record for a file, without writing it.

        Args:
            path: The ONNX file.
            siblings: Names of all files of the model, this one's included, where it has several.
            task: Optimum task; None to infer it.
            force: Whether to go on where the file does not fit the model.

        Raises:
            InvalidOnnxFileError: The file is not an ONNX model.
            MisfitError: It is not an export of this model.
        """
        checkpoint = self.checkpoint
        if task is not None and not is_task(task):
            raise ExportError(f"{task!r} is not a task of Optimum's. Leave out --task, or give one that is.")
        graph = read_graph(path)
        task = canonical_task(task) if task else self._infer_task(graph, path)
        reason = graph_misfit(checkpoint.config, task, graph, checkpoint.library, self._parameters)
        if reason is not None and not force:
            reason = f"{path} does not look like an export of {self._name}: {reason}"
            raise MisfitError(f"{reason}. Name the right model, or give --force.")
        if path not in self.seen:  # a file may be looked at for several tasks
            self.seen.add(path)
            warn_of_traces(path, graph)
        record = export_record(
            checkpoint,
            task=task,
            library=checkpoint.library,
            model_class=class_for_task(task, checkpoint.config, checkpoint.library),
        )
        record = dataclasses.replace(record, export_timestamp=self.timestamp)
        names = tuple(siblings)
        if len(names) > 1:
            record = dataclasses.replace(record, onnx_files=names, onnx_file=path.name, export_id=self.export_id)
        return with_embedded(record, self.embedding(path))

    def write(self, path: Path, record: ExportMetadata) -> ExportMetadata:
        """Stamp a file with a record; return it as written.

        Raises:
            OnnxWriteError: The file cannot be written. It is as it was.
        """
        author = self.info.author if self.info is not None else None
        embedding = self.embedding(path)
        archive = embedding.archive if embedding is not None and record.embedded_in is None else None
        return stamp(
            path,
            record,
            author=author,
            extra=plugin_properties(record, self.info),
            archive=archive,
            external_data=self.external_data,
        )

    def _infer_task(self, graph: Graph, path: Path) -> str:
        if (told := task_of_graph(graph, path)) is not None:
            return told
        tag = self.info.pipeline_tag if self.info is not None else None
        return with_past_of(infer_task(self.checkpoint.config, self.checkpoint.library, tag), graph)

    def _parameters(self) -> Parameters | None:
        checkpoint, source = self.checkpoint, self.checkpoint.source
        commit = None
        if isinstance(source, HubSource) and source.info is not None and source.provider == plugins.HUGGING_FACE:
            commit = source.repo_id, source.commit
        return parameters_of(checkpoint.folder, checkpoint.files, self.access, commit)

    @property
    def _name(self) -> str:
        source = self.checkpoint.source
        return f"{source.reference} at {source.commit[:8]}" if isinstance(source, HubSource) else str(source.path)


def look_up(
    model_name_or_path: str | os.PathLike[str],
    revision: str | None,
    access: HubAccess,
    *,
    embed: str = ALL,
    external_data: bool = False,
) -> Injection:
    """Look up the model to stamp files with: its commit, config and preprocessors, not its weights.

    Raises:
        HFHubIntegrationError: It cannot be found or had; the subclass says why.
    """
    checkpoint = fetch_checkpoint(locate(model_name_or_path, revision, access), access, None, weights=False)
    checkpoint.require_config()
    return Injection(checkpoint, access, embed, external_data)


def task_of_graph(graph: Graph, path: Path) -> str | None:
    """Return the Optimum task that a graph's outputs tell, None where they could be those of several."""
    outputs = {spec.name for spec in graph.outputs}
    if "start_logits" in outputs:
        return "question-answering"
    has_features = outputs & {"last_hidden_state", "sentence_embedding", "token_embeddings"}
    if has_features and "logits" not in outputs and not _PART.fullmatch(path.name):
        return "feature-extraction"
    return None


def with_past_of(task: str, graph: Graph) -> str:
    """Return the variant of a task that reuses past key values, where the graph does."""
    has_past = any(spec.name.startswith(_PAST) for spec in (*graph.inputs, *graph.outputs))
    return task + WITH_PAST if has_past and not task.endswith(WITH_PAST) else task


def siblings_of(paths: Iterable[Path]) -> dict[Path, tuple[str, ...]]:
    """Group files that are parts of one model: an encoder and its decoders, in one folder and one variant.

    Or what transformers' exporters wrote of one model, next to their `export.json`.
    """
    groups: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path in paths:
        if (manifest := manifest_beside(path)) is not None:
            if len(manifest.files) > 1:
                groups[path.parent, EXPORT_MANIFEST].append(path)
        elif match := _PART.fullmatch(path.name):
            groups[path.parent, match["variant"]].append(path)
    return {path: tuple(sorted({sibling.name for sibling in group})) for group in groups.values() for path in group}


def inject_hub_metadata(
    onnx_path: str | os.PathLike[str],
    model_name_or_path: str | os.PathLike[str],
    metadata: Mapping[str, Any] | None = None,
    *,
    task: str | None = None,
    revision: str | None = None,
    force: bool = False,
    embed: str = ALL,
    external_data: bool = False,
    access: HubAccess | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> ExportMetadata:
    """Stamp an ONNX file with the model that it came from, in place of a record that it may have.

    Args:
        onnx_path: The file. It is replaced in one step, or not at all.
        model_name_or_path: A model of the Hub (either with `@revision`) or a local folder.
        metadata: What `is_hub_model` returned for it, to pin the file to that very commit. With it a file can be
            stamped while the Hub is out of reach: `hf_unchecked` then names what could not be looked up.
        task: Optimum task; None to infer it.
        revision: Branch, tag, commit or `refs/pr/N`.
        force: Whether to go on where the file plainly is not an export of the model.
        embed: What travels in the file: `all` for config and preprocessors, `config`, or `none`.
        external_data: Whether to move the weights to `<file>_data`, as files of 2 GiB and more need it.
        access: How to reach the Hub; `token`, `cache_dir` and `local_files_only` are its fields, as arguments.

    Returns:
        The record as written.

    Raises:
        InvalidOnnxFileError: The file is not an ONNX model.
        FileChangedError: It was replaced meanwhile. Nothing was written.
        MisfitError: It is not an export of this model.
        HFHubIntegrationError: The model cannot be found or had; the subclass says why.
    """
    check_choice(embed)
    path = Path(onnx_path)
    check = check_of(path)
    access = HubAccess.of(access, token, cache_dir, local_files_only)
    model: str | os.PathLike[str] = model_name_or_path
    known = metadata if metadata is not None and metadata.get("type", "hub") == "hub" else None
    if known is not None:
        model, revision = _reference_of_known(known) or model, known.get("sha") or revision
    try:
        injection = look_up(model, revision, access, embed=embed, external_data=external_data)
    except HubUnreachableError as error:
        if known is None or not known.get("sha"):
            raise
        logger.warning(
            "%s is stamped with what was known of %s before, and neither its config nor its preprocessors were looked "
            "up: %s",
            path,
            model,
            error,
        )
        record = _record_of_known(known, path, task, force=force)
        extra = plugin_properties(record, None)
        with checked_before_replacing(check):
            return stamp(path, record, author=known.get("author"), extra=extra, external_data=external_data)
    record = injection.record(path, task=task, force=force)
    with checked_before_replacing(check):
        return injection.write(path, record)


def _reference_of_known(known: Mapping[str, Any]) -> str | None:
    """Return what to type for the model that `is_hub_model` answered about."""
    prefix = f"{known['provider']}://" if known.get("provider") else ""
    return f"{prefix}{known['model_id']}" if known.get("model_id") else None


def _record_of_known(known: Mapping[str, Any], path: Path, task: str | None, *, force: bool) -> ExportMetadata:
    """Return a record of what `is_hub_model` returned, and of what the graph tells.

    Raises:
        InvalidModelReferenceError: It is not what `is_hub_model` returns.
        ExportError: Neither tells the task.
        MisfitError: The graph is no export of any such model.
    """
    graph, commit = read_graph(path), str(known.get("sha"))
    tag = known.get("pipeline_tag")
    task = task or task_of_graph(graph, path) or (str(tag) if tag and is_task(str(tag)) else None)
    if task is None or not is_task(task):
        raise ExportError(f"The task of {path} cannot be told without the model's config. Give task=.")
    if not force and (reason := graph_misfit({}, task, graph)) is not None:
        raise MisfitError(f"{path} does not look like an export of {known.get('model_id')}: {reason}.")
    warn_of_traces(path, graph)
    facts: dict[str, Any] = {
        "pipeline_tag": tag,
        "library_name": known.get("library_name"),
        "base_model": known.get("base_model"),
        "license": known.get("license"),
        "model_downloads": None if is_reproducible() else known.get("downloads"),
        "model_likes": None if is_reproducible() else known.get("likes"),
        "private": known.get("private"),
        "gated": known.get("gated"),
    }
    ref = known.get("revision")
    record = ExportMetadata(
        model_type="hub",
        hub_provider=None if known.get("provider") is None else str(known["provider"]),
        hub_id=str(known.get("model_id")),
        hub_sha=commit,
        hub_revision=commit[:SHORT_COMMIT],
        hub_ref=str(ref) if ref not in (None, plugins.hub(known.get("provider")).default_revision, commit) else None,
        export_version=__version__,
        export_timestamp=now(),
        task=with_past_of(canonical_task(task), graph),
        export_library="transformers",
        unchecked=("config", "preprocessors"),
        **facts,
    )
    try:
        ExportMetadata.from_properties(record.to_properties())
    except MetadataError as error:
        raise InvalidModelReferenceError(
            f"metadata= of {path} is not what is_hub_model returns for a model: {error}"
        ) from error
    return record
