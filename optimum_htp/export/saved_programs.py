"""Saves a program of transformers' `OnnxExporter` as a stamped file, for the format `htp` of `AutoHfExporter`.

transformers saves each component separately. Each file is therefore stamped as a model of its own, with an
`export.json` that lists one component.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_htp.errors import ExportError, HFHubIntegrationError
from optimum_htp.export.engines.programs import fits_inline, save_inline
from optimum_htp.export.engines.transformers import TransformersEngine, manifest_of_components
from optimum_htp.export.subject import LoadedModel, inspect_loaded_model
from optimum_htp.hierarchy.capture import ExportedParts
from optimum_htp.hierarchy.tags import TagWriter
from optimum_htp.hubs.base import HubAccess
from optimum_htp.masking import get_logger
from optimum_htp.metadata import ExportMetadata
from optimum_htp.onnxfile import read_graph
from optimum_htp.origin.embedding import embedding_of
from optimum_htp.origin.names import CONFIG, EXPORT_MANIFEST
from optimum_htp.origin.source import HubSource
from optimum_htp.origin.tasks import WITH_PAST
from optimum_htp.stamping.embed import with_embedded
from optimum_htp.stamping.inject import with_past_of
from optimum_htp.stamping.new_record import export_record, plugin_properties
from optimum_htp.stamping.stamp import stamp

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["save_stamped"]

logger = get_logger(__name__)


def save_stamped(program: onnx_ir.Model, metadata: Any, model: Any, path: Path) -> ExportMetadata:
    """Write a program to one file, with tags and a record.

    Args:
        program: The program, as it is to be saved.
        metadata: What transformers' exporter noted of it.
        model: What it was traced from.
        path: The file.

    Raises:
        ExportError: The weights are too large for one file.
    """
    if not fits_inline(program):
        raise ExportError(
            f"The weights of {path.name} do not fit into one ONNX file. Export with export_format='onnx', and stamp "
            "the files with `optimum-cli htp inject`."
        )
    save_inline(program, path)
    subject = _subject(model)
    checkpoint = subject.checkpoint
    task = TransformersEngine().infer_task(subject, {}).removesuffix(WITH_PAST)
    record = export_record(
        checkpoint,
        task=with_past_of(task, read_graph(path)),
        library=subject.library,
        model_class=type(model).__name__,
        base_model=subject.derived_from,
    )
    own = {EXPORT_MANIFEST: json.dumps(manifest_of_components({path.stem: metadata}), indent=2).encode()}
    if record.model_type == "local" and hasattr(model, "config"):
        own[CONFIG] = model.config.to_json_string().encode()
    embedding = (
        embedding_of(checkpoint.folder, checkpoint.config_files, subject.library, own=own)
        if checkpoint is not None
        else embedding_of(path.parent, (), subject.library, own=own)
    )
    source = checkpoint.source if checkpoint is not None else None
    info = source.info if isinstance(source, HubSource) and record.model_type == "hub" else None
    return stamp(
        path,
        with_embedded(record, embedding),
        author=info.author if info is not None else None,
        extra=plugin_properties(record, info),
        tags=_tags(model, path),
        archive=embedding.archive if embedding is not None else None,
    )


def _subject(model: Any) -> LoadedModel:
    """Return what a model is; a local one where its source cannot be had."""
    try:
        return inspect_loaded_model(model, HubAccess(), None)
    except HFHubIntegrationError as error:
        logger.warning("%s is saved as a local model: %s", type(model).__name__, error)
        return dataclasses.replace(LoadedModel(model, None), reason=str(error))


def _tags(model: Any, path: Path) -> TagWriter | None:
    parts = ExportedParts(path.parent, lambda: model)
    parts.try_to_add(path.name, model, {})
    if fault := parts.faults.get(path.name):
        logger.warning("%s cannot be tagged: %s: %s", path.name, type(fault).__name__, fault)
        return None
    assignment = parts.assignment(path.name, path)
    return TagWriter(assignment) if assignment is not None else None
