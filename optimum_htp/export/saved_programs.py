"""Saves programs of transformers' `OnnxExporter` as stamped files, for the format `htp` of `AutoHfExporter`.

The components are saved as one model of several files, as the engine `transformers` does. They share their weights,
and the first file contains config, preprocessors and `export.json`.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_htp.errors import ExportError, OptimumHTPError
from optimum_htp.export.engines.programs import (
    DATA_FILE,
    fits_inline,
    manifest_of_components,
    save_program,
    save_programs,
)
from optimum_htp.export.engines.transformers import TransformersEngine
from optimum_htp.export.stamped_files import stamp_all, tags_of
from optimum_htp.export.subject import ExportSubject, inspect_loaded_model
from optimum_htp.hierarchy.capture import ExportedParts
from optimum_htp.hubs.base import HubAccess
from optimum_htp.libraries.names import CONFIG, EXPORT_MANIFEST
from optimum_htp.libraries.tasks import WITH_PAST
from optimum_htp.masking import get_logger
from optimum_htp.onnxfile import read_graph
from optimum_htp.resolve.embedding import embedding_of
from optimum_htp.stamping.inject import with_past_of
from optimum_htp.stamping.stamp import export_record

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["Traced", "TracedModel", "save_again"]

logger = get_logger(__name__)


@dataclasses.dataclass(frozen=True)
class Traced:
    """A component of a model: its graph, the metadata from transformers' exporter, and the traced module."""

    program: onnx_ir.Model
    metadata: Any
    module: Any


@dataclasses.dataclass(frozen=True)
class TracedModel:
    """A model whose components, by name, are saved together.

    `written` contains the files that were written together with another component.
    """

    model: Any
    components: Mapping[str, Traced]
    written: set[Path] = dataclasses.field(default_factory=set)

    def save(self, program: onnx_ir.Model, path: Path) -> None:
        """Write the file of a component, together with those of the other components of its model.

        transformers calls this for each file; files that exist from an earlier call are not written again. If the name
        of the file is not the component's, it becomes a model of its own, whose weights must fit into the file.
        """
        if path in self.written and path.is_file():
            self.written.discard(path)
            return
        components = self.components
        if components.get(path.stem) is None or components[path.stem].program is not program:
            components = {path.stem: next(one for one in components.values() if one.program is program)}
        _save_stamped(components, self.model, path.parent)
        self.written.update(path.with_name(f"{name}.onnx") for name in components if name != path.stem)


def _save_stamped(components: Mapping[str, Traced], model: Any, folder: Path) -> None:
    programs = {name: component.program for name, component in components.items()}
    if len(programs) == 1 and not all(map(fits_inline, programs.values())):
        raise ExportError(
            f"The weights of {type(model).__name__} do not fit into one ONNX file. Export with export_format='onnx', "
            "and stamp the files with `optimum-cli htp inject`."
        )
    save_programs(programs, folder)
    subject = _subject(model)
    checkpoint = subject.checkpoint
    names = sorted(f"{name}.onnx" for name in components)
    task = TransformersEngine().infer_task(subject, {}).removesuffix(WITH_PAST)
    for name in names:
        task = with_past_of(task, read_graph(folder / name))
    record = export_record(
        checkpoint,
        task=task,
        library=subject.library,
        model_class=type(subject.model).__name__,
        base_model=subject.derived_from,
    )
    manifest = manifest_of_components({name: component.metadata for name, component in components.items()})
    own = {EXPORT_MANIFEST: json.dumps(manifest, indent=2).encode()}
    if record.model_type == "local" and hasattr(model, "config"):
        own[CONFIG] = model.config.to_json_string().encode()
    source, configs = (checkpoint.folder, checkpoint.config_files) if checkpoint is not None else (folder, ())
    embedding = embedding_of(source, configs, subject.library, own=own)
    parts = ExportedParts(folder, lambda: model)
    for name, component in components.items():
        parts.try_to_add(f"{name}.onnx", component.module, {})
    tags = tags_of(folder, {name: name for name in names}, parts, strict=False)
    stamp_all(folder, names, record, subject, tags, embedding)


def save_again(program: onnx_ir.Model, path: Path) -> None:
    """Write a program that was loaded from the file in its `meta`. It already has tags and a record.

    Shared weights of its model are copied next to the new file, unless they exist.
    """
    save_program(program, path)
    loaded = program.meta.get("path")
    shared = Path(loaded).with_name(DATA_FILE) if loaded is not None else None
    if shared is not None and shared.is_file() and not path.with_name(DATA_FILE).exists():
        shutil.copyfile(shared, path.with_name(DATA_FILE))


def _subject(model: Any) -> ExportSubject:
    """Return the subject for a model; a local model if its source is not available."""
    try:
        return inspect_loaded_model(model, HubAccess(), None)
    except OptimumHTPError as error:
        logger.warning("%s is saved as a local model: %s", type(model).__name__, error)
        return dataclasses.replace(ExportSubject(model, None), reason=str(error))
