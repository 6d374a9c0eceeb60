"""Checks whether a config can belong to an ONNX file. The config.json of another model must be detected."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from optimum_htp.libraries.tables import model_names
from optimum_htp.libraries.tasks import architectures, model_type_of
from optimum_htp.metadata import ExportMetadata
from optimum_htp.onnxfile import TensorSpec, read_signature

__all__ = ["LABELLED_TASKS", "label_mismatch", "mismatch"]

_LOGITS: Final = "logits"
# The tasks whose logits have one value per label in the last dimension.
LABELLED_TASKS: Final = (
    "text-classification",
    "token-classification",
    "image-classification",
    "audio-classification",
    "audio-frame-classification",
)
_DEFAULT_LABELS: Final = 2  # The default in transformers' PretrainedConfig.


def mismatch(config: Mapping[str, Any], metadata: ExportMetadata, path: Path) -> str | None:
    """Return why a config cannot belong to a stamped ONNX file; None if there is no contradiction.

    Args:
        config: Content of a `config.json`.
        metadata: The record of the file.
        path: The file. Its outputs are read if the number of labels follows from them.
    """
    model_class, model_type = metadata.model_class, model_type_of(config)
    if model_class is not None and model_class not in architectures(config):
        types = _model_types_of(model_class)
        if types is None and not _are_similar(model_class, config):
            return (
                f"it is for a {model_type or None} model, and without transformers it is unknown whether that is a "
                f"{model_class} like the file"
            )
        if types and model_type not in types:
            return f"it is for a {model_type or None} model, but the file is a {model_class}"
    if metadata.task not in LABELLED_TASKS:
        return None
    return label_mismatch(config, read_signature(path)[1])


def label_mismatch(config: Mapping[str, Any], outputs: tuple[TensorSpec, ...]) -> str | None:
    """Return how the number of labels differs between a config and the logits of a graph; None if it does not."""
    for output in outputs:
        if output.name == _LOGITS and output.shape and isinstance(output.shape[-1], int):
            in_config = _labels_in_config(config)
            if output.shape[-1] != in_config:
                return f"it has {in_config} labels, but the file has {output.shape[-1]}"
    return None


def _labels_in_config(config: Mapping[str, Any]) -> int:
    if isinstance(labels := config.get("id2label"), dict):
        return len(labels)
    count = config.get("num_labels", config.get("num_classes", _DEFAULT_LABELS))
    return count if isinstance(count, int) else _DEFAULT_LABELS


def _are_similar(class_name: str, config: Mapping[str, Any]) -> bool:
    """Whether a config names a class or a model type with the same first part as a class, such as `Bert`."""
    first = _first_part(class_name)
    model_type = (model_type_of(config) or "").replace("-", "").replace("_", "")
    return first in {model_type.lower(), *map(_first_part, architectures(config))}


def _first_part(class_name: str) -> str:
    return re.split("For|Model|LMHead", class_name)[0].lower()


def _model_types_of(class_name: str) -> set[str] | None:
    """Return the model types for which transformers has a class of this name; None without transformers."""
    types = set()
    try:
        names = model_names()
    except ModuleNotFoundError:
        return None
    for mapping in names.values():
        for model_type, classes in mapping.items():
            if class_name in ((classes,) if isinstance(classes, str) else classes):
                types.add(model_type)
    return types
