"""Stamp ONNX files of other exporters: Optimum, torch, or a repo for transformers.js.

The model is looked up once. The task of each file comes from its graph, if the outputs are specific to one task. A
file that clearly is not an export of the model is rejected.
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
    MismatchError,
)
from optimum_htp.fit.blueprint import Parameters, parameters_of
from optimum_htp.fit.graphs import graph_mismatch
from optimum_htp.hierarchy.tags import warn_of_traces
from optimum_htp.hubs.base import HubAccess, RepoInfo
from optimum_htp.libraries.names import EXPORT_MANIFEST
from optimum_htp.libraries.tasks import WITH_PAST, canonical_task, check_task, class_for_task, infer_task, is_task
from optimum_htp.masking import get_logger
from optimum_htp.metadata import SHORT_COMMIT, ExportMetadata
from optimum_htp.onnxfile import Graph, read_graph
from optimum_htp.onnxfile.unchanged import check_of, checked_before_replacing
from optimum_htp.origin.checkpoint import Checkpoint, fetch_checkpoint
from optimum_htp.origin.source import HubSource, locate
from optimum_htp.resolve.embedding import ALL, Embedding, check_choice, embedding_of
from optimum_htp.resolve.export_manifest import manifest_beside
from optimum_htp.stamping.embed import with_embedded
from optimum_htp.stamping.stamp import (
    export_record,
    is_reproducible,
    now,
    plugin_properties,
    stamp,
    with_hub_facts,
)
from optimum_htp.version import __version__

__all__ = ["Injection", "inject_hub_metadata", "look_up", "with_past_of"]

logger = get_logger(__name__)

# Names of key value inputs and outputs in exports of Optimum and of transformers' exporters.
_PAST: Final = ("past_key_values", "present", "cache.", "input.cache.", "output.cache.")
# The fields of `RepoInfo` that a result of `is_hub_model` has too.
_FACTS: Final = ("pipeline_tag", "library_name", "base_model", "license", "downloads", "likes", "private", "gated")
# Names of the parts of an encoder-decoder in Optimum and transformers.js, with a suffix for the variant.
_PART: Final = re.compile(r"(?:encoder_model|decoder(?:_with_past)?_model(?:_merged)?)(?P<variant>.*)\.onnx")


@dataclass(frozen=True)
class Injection:
    """A model to stamp files with. All files that are stamped with one instance belong together.

    They share the timestamp and the export id. `seen` are the files that were checked.
    """

    checkpoint: Checkpoint
    access: HubAccess = field(default_factory=HubAccess)
    embed: str = ALL
    external_data: bool = False
    timestamp: str = field(default_factory=now)
    export_id: str | None = field(default_factory=lambda: None if is_reproducible() else uuid.uuid4().hex)
    seen: set[Path] = field(default_factory=set, repr=False)

    def embedding(self, path: Path) -> Embedding | None:
        """Return the files to embed for the model of a file, packed once for all of its files.

        If transformers' exporters wrote the file, their adjacent `export.json` is one of them.
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
        """The Hub's information about the model."""
        source = self.checkpoint.source
        return source.info if isinstance(source, HubSource) else None

    def record(
        self, path: Path, siblings: Iterable[str] = (), *, task: str | None = None, force: bool = False
    ) -> ExportMetadata:
        """Return the record for a file, without writing it. The siblings include this file.

        MismatchError: The file is not an export of this model, and this is not forced.
        """
        checkpoint = self.checkpoint
        if task is not None:
            check_task(task)
        graph = read_graph(path)
        task = canonical_task(task) if task else self._infer_task(graph, path)
        reason = graph_mismatch(checkpoint.config, task, graph, checkpoint.library, self._parameters)
        if reason is not None and not force:
            reason = f"{path} does not match {self._name}: {reason}"
            raise MismatchError(f"{reason}. Pass the right model, or pass --force.")
        if path not in self.seen:  # A file may be checked for several tasks.
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
        """Stamp a file with a record; return the record as written."""
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
        if (task := task_of_graph(graph, path)) is not None:
            return task
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
        return f"{source.reference}@{source.commit[:8]}" if isinstance(source, HubSource) else str(source.path)


def look_up(
    model_name_or_path: str | os.PathLike[str],
    revision: str | None,
    access: HubAccess,
    *,
    embed: str = ALL,
    external_data: bool = False,
) -> Injection:
    """Look up the model to stamp files with: its commit, config and preprocessors, without its weights."""
    checkpoint = fetch_checkpoint(locate(model_name_or_path, revision, access), access, None, weights=False)
    checkpoint.require_config()
    return Injection(checkpoint, access, embed, external_data)


def task_of_graph(graph: Graph, path: Path) -> str | None:
    """Return the Optimum task that the outputs of a graph belong to; None if several tasks have these outputs."""
    outputs = {spec.name for spec in graph.outputs}
    if "start_logits" in outputs:
        return "question-answering"
    has_features = outputs & {"last_hidden_state", "sentence_embedding", "token_embeddings"}
    if has_features and "logits" not in outputs and not _PART.fullmatch(path.name):
        return "feature-extraction"
    return None


def with_past_of(task: str, graph: Graph) -> str:
    """Return the variant of a task with past key values, if the graph has them."""
    has_past = any(spec.name.startswith(_PAST) for spec in (*graph.inputs, *graph.outputs))
    return task + WITH_PAST if has_past and not task.endswith(WITH_PAST) else task


def siblings_of(paths: Iterable[Path]) -> dict[Path, tuple[str, ...]]:
    """Group files that are parts of one model.

    These are an encoder and its decoders in one folder and one variant, or the files that transformers' exporters
    wrote for one model, next to their `export.json`.
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
    """Stamp an ONNX file with the model that it was exported from. An existing record is replaced.

    Args:
        onnx_path: The file. It is replaced in one step, or not at all.
        model_name_or_path: A repo id (also with `@revision`) or a local folder.
        metadata: The result of `is_hub_model` for the model. It pins the file to that commit. With it, a file can be
            stamped while the Hub is unreachable; `hf_unchecked` then lists what was not looked up.
        task: Optimum task; None to infer it.
        revision: Branch, tag, commit or `refs/pr/N`.
        force: Whether to continue if the file clearly is not an export of the model.
        embed: What to embed: `all` for config and preprocessors, `config`, or `none`.
        external_data: Whether to move the weights to `<file>_data`. Files of 2 GiB and more need this.
        access: Options for Hub requests. `token`, `cache_dir` and `local_files_only` are its fields, as arguments.

    Returns:
        The record as written.

    Raises:
        InvalidOnnxFileError: The file is not an ONNX model.
        FileChangedError: The file was replaced meanwhile. Nothing was written.
        MismatchError: The file is not an export of this model.
        HFHubIntegrationError: The model cannot be found or downloaded; the subclass gives the reason.
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
            "%s was stamped with earlier information about %s. Its config and its preprocessors were not looked up: "
            "%s",
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
    """Return the repo id and revision of the model that a result of `is_hub_model` describes."""
    prefix = f"{known['provider']}://" if known.get("provider") else ""
    return f"{prefix}{known['model_id']}" if known.get("model_id") else None


def _record_of_known(known: Mapping[str, Any], path: Path, task: str | None, *, force: bool) -> ExportMetadata:
    """Return a record from the result of `is_hub_model` and from the graph."""
    graph, commit = read_graph(path), str(known.get("sha"))
    tag = known.get("pipeline_tag")
    task = task or task_of_graph(graph, path) or (str(tag) if tag and is_task(str(tag)) else None)
    if task is None or not is_task(task):
        raise ExportError(f"The task of {path} cannot be inferred without the model's config. Pass task=.")
    if not force and (reason := graph_mismatch({}, task, graph)) is not None:
        raise MismatchError(f"{path} does not match {known.get('model_id')}: {reason}.")
    warn_of_traces(path, graph)
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
    )
    facts: dict[str, Any] = {name: known.get(name) for name in _FACTS}
    record = with_hub_facts(record, RepoInfo(repo_id=str(record.hub_id), commit=commit, files=(), **facts))
    try:
        ExportMetadata.from_properties(record.to_properties())
    except MetadataError as error:
        raise InvalidModelReferenceError(
            f"metadata= for {path} is not a result of is_hub_model for a model: {error}"
        ) from error
    return record
