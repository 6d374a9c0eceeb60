"""Whether a config can be that of an ONNX file: a stranger's config.json must not pass for the model's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from optimum_htp.metadata import ExportMetadata
from optimum_htp.onnxfile import Graph, TensorSpec, read_signature

__all__ = ["graph_misfit", "misfit"]

_LOGITS: Final = "logits"
# The tasks whose logits end in one value a label.
_LABELLED_TASKS: Final = (
    "text-classification",
    "token-classification",
    "image-classification",
    "audio-classification",
    "audio-frame-classification",
)
_DEFAULT_LABELS: Final = 2  # of transformers' PretrainedConfig
# One of these is the main input of a model; a decoder apart from its encoder has another.
_MAIN_INPUTS: Final = frozenset({"input_ids", "pixel_values", "input_values", "input_features"})
_ENCODER_OUTPUT: Final = "encoder_hidden_states"
# What may lie between an embedding and its look-up, in quantised and converted graphs.
_PASSED_THROUGH: Final = frozenset(
    {"Cast", "Identity", "DequantizeLinear", "Reshape", "Unsqueeze", "Squeeze", "Transpose"}
)


def misfit(config: Mapping[str, Any], metadata: ExportMetadata, path: Path) -> str | None:
    """Say why a config cannot belong to a stamped ONNX file, or return None where nothing speaks against it.

    Args:
        config: Content of a `config.json`.
        metadata: What the file says of itself.
        path: The file; its outputs are read where the number of labels can be told from them.
    """
    model_class, model_type = metadata.model_class, config.get("model_type")
    if model_class is not None and model_class not in architectures(config):
        types = _model_types_of(model_class)
        if types and model_type not in types:
            return f"it is of a {model_type} model, and the file of a {model_class}"
    if metadata.task not in _LABELLED_TASKS:
        return None
    return _label_misfit(config, read_signature(path)[1])


def graph_misfit(config: Mapping[str, Any], task: str | None, graph: Graph) -> str | None:
    """Say why a graph cannot be an export of a model, or return None where nothing speaks against it.

    Args:
        config: Content of the model's `config.json`.
        task: The Optimum task of the graph.
        graph: The graph: its inputs, its labels and its vocabulary are compared with the config's.
    """
    inputs = {spec.name for spec in graph.inputs}
    main, given = _main_input_of(config), inputs & _MAIN_INPUTS
    is_part = _ENCODER_OUTPUT in inputs or any(name.startswith("past_key_values") for name in inputs)
    is_part |= any(str(key).endswith(("text_config", "vision_config", "audio_config")) for key in config)
    if main is not None and given and main not in given and not is_part:
        return f"the model takes {main}, and the graph {', '.join(sorted(given))}"
    if task in _LABELLED_TASKS and (reason := _label_misfit(config, graph.outputs)) is not None:
        return reason
    vocabulary = config.get("vocab_size")
    for rows in _looked_up_rows(graph):
        if isinstance(vocabulary, int) and rows != vocabulary:
            return f"the model has a vocabulary of {vocabulary}, and the graph's embedding {rows} rows"
    return None


def architectures(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the class names in a config, none where somebody wrote something else there."""
    names = config.get("architectures")
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _label_misfit(config: Mapping[str, Any], outputs: tuple[TensorSpec, ...]) -> str | None:
    for output in outputs:
        if output.name == _LOGITS and output.shape and isinstance(output.shape[-1], int):
            in_config = _labels_in_config(config)
            if output.shape[-1] != in_config:
                return f"it has {in_config} labels, and the file {output.shape[-1]}"
    return None


def _labels_in_config(config: Mapping[str, Any]) -> int:
    if isinstance(labels := config.get("id2label"), dict):
        return len(labels)
    count = config.get("num_labels", config.get("num_classes", _DEFAULT_LABELS))
    return count if isinstance(count, int) else _DEFAULT_LABELS


def _looked_up_rows(graph: Graph) -> list[int]:
    """Return the numbers of rows of the tables that `input_ids` is looked up in."""
    made_by = {output: node for node in graph.nodes for output in node.outputs}
    shapes = {tensor.name: tensor.shape for tensor in graph.initializers}

    def origin(name: str) -> str:
        for _ in range(len(_PASSED_THROUGH)):  # chains are short, and a hostile graph may have a cycle
            node = made_by.get(name)
            if node is None or node.op_type not in _PASSED_THROUGH or not node.inputs:
                break
            name = node.inputs[0]
        return name

    rows = []
    for node in graph.nodes:
        if node.op_type == "Gather" and len(node.inputs) == 2 and origin(node.inputs[1]) == "input_ids":
            shape = shapes.get(origin(node.inputs[0]), ())
            if len(shape) == 2:
                rows.append(shape[0])
    return rows


def _main_input_of(config: Mapping[str, Any]) -> str | None:
    """Return the main input of the class that a config names, None where transformers has no such class."""
    import transformers

    for name in architectures(config):
        model_class = getattr(transformers, str(name), None)
        if isinstance(main := getattr(model_class, "main_input_name", None), str):
            return main
    return None


def _model_types_of(class_name: str) -> set[str]:
    """Return the model types that transformers has a class of this name for."""
    from transformers.models.auto import modeling_auto

    types = set()
    for name, mapping in vars(modeling_auto).items():
        if name.endswith("_MAPPING_NAMES"):
            for model_type, classes in mapping.items():
                if class_name in ((classes,) if isinstance(classes, str) else classes):
                    types.add(model_type)
    return types
