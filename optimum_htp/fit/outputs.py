"""Checks whether a graph has the outputs that its task needs. Without them, Optimum cannot run it.

Optimum's table of outputs by task is read from its source. Before a graph is rejected, the specific outputs of its
model type are looked up, which imports PyTorch. Parts of a model (encoder, decoder, parts of a diffusion pipeline) are
recognized by their inputs.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from optimum_htp.errors import ConfigLoadError
from optimum_htp.libraries.source_constants import constants, module_file
from optimum_htp.libraries.tasks import WITH_PAST, model_type_of
from optimum_htp.onnxfile import Graph

__all__ = ["output_mismatch", "past_mismatch"]

_EXPORTER: Final = "optimum.exporters.onnx.base"
_FEATURES: Final = "feature-extraction"
# Any of these is a feature: `ORTModelForCustomTasks` and sentence_transformers run files with other outputs.
_FEATURE_OUTPUTS: Final = frozenset(
    {"last_hidden_state", "token_embeddings", "sentence_embedding", "pooler_output", "text_embeds", "image_embeds"}
)
_ENCODED: Final = "last_hidden_state"
# The tasks that Optimum exports as an encoder and decoders.
_OF_PARTS: Final = (
    "text2text-generation",
    "automatic-speech-recognition",
    "image-to-text",
    "visual-question-answering",
    "document-question-answering",
)
# A part with one of these inputs is not an encoder.
_OF_DECODERS: Final = frozenset({"encoder_hidden_states", "encoder_attention_mask", "decoder_input_ids"})
_PAST: Final = "past_key_values."
_PRESENT: Final = re.compile(r"(?:present|past_key_values).*\.(?:key|value)")
# Inputs of a part of a diffusion pipeline, and its outputs, of which one is needed. The first match is used.
_PARTS_OF_PIPELINES: Final = (
    ("timestep", ("out_sample",)),
    ("latent_sample", ("sample",)),
    ("sample", ("latent_parameters", "latent_sample")),
    ("input_ids", ("last_hidden_state", "text_embeds", "pooler_output")),
)
_UNBUILT: Final = (ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError, OSError)


def past_mismatch(graph: Graph) -> str | None:
    """Return how the past key values in inputs and outputs of a graph differ; None if they match."""
    taken = [spec.name for spec in graph.inputs if spec.name.startswith(_PAST) and "encoder" not in spec.name]
    given = [spec.name for spec in graph.outputs if _PRESENT.match(spec.name) and "encoder" not in spec.name]
    if taken and len(taken) != len(given):
        return f"the graph takes {len(taken)} past key values, such as {taken[0]}, but returns {len(given)}"
    return None


def output_mismatch(
    config: Mapping[str, Any], task: str | None, graph: Graph, library: str | None
) -> tuple[str | None, str | None]:
    """Return the needed output that a graph lacks; and why this cannot be checked, if so.

    An unknown config is empty, an unknown task None. The library None is transformers.
    """
    given = {spec.name for spec in graph.outputs}
    if library == "diffusers":
        return _pipeline_mismatch({spec.name for spec in graph.inputs}, given)
    if task is None:
        return None, "the task is unknown"
    task = task.removesuffix(WITH_PAST)
    if library == "sentence_transformers" or task == _FEATURES:
        if given & _FEATURE_OUTPUTS:
            return None, None
    elif _is_encoder(config, task, graph) and _ENCODED in given:
        return None, None
    common = _outputs_by_task().get(task)
    if common is not None and given.issuperset(common):
        return None, None
    own, whole = _own_outputs(config, task, library)
    wanted = own if own is not None else common
    if wanted is None:
        return None, f"Optimum has no list of outputs of a {model_type_of(config) or 'model'} for {task}"
    missing = [name for name in wanted if name not in given and not _PRESENT.match(name)]
    if not missing:
        return None, None
    if not whole:
        return None, f"it is unknown which part of a {model_type_of(config)} model the graph is"
    return f"{task} needs the output {', '.join(missing)}, but the graph has {_listed(given)}", None


def _pipeline_mismatch(taken: Collection[str], given: Collection[str]) -> tuple[str | None, str | None]:
    for name, wanted in _PARTS_OF_PIPELINES:
        if name in taken:
            if any(output in given for output in wanted):
                return None, None
            needed = " or ".join(wanted)
            return f"such a part of a pipeline needs the output {needed}, but the graph has {_listed(given)}", None
    return None, "it is unknown which part of a pipeline the graph is"


def _is_encoder(config: Mapping[str, Any], task: str, graph: Graph) -> bool:
    """Whether a graph can be the encoder of a model that is exported in parts."""
    if task not in _OF_PARTS or (config and not config.get("is_encoder_decoder")):
        return False
    taken = {spec.name for spec in graph.inputs}
    return not taken & _OF_DECODERS and not any(name.startswith(_PAST) for name in taken)


def _outputs_by_task() -> Mapping[str, Iterable[str]]:
    """Return the outputs of models by task from Optimum's exporter; empty without it."""
    try:
        file = module_file(_EXPORTER)
        table = constants(file)["OnnxConfig"]["_TASK_TO_COMMON_OUTPUTS"] if file is not None else {}
    except _UNBUILT:
        table = importlib.import_module(_EXPORTER).OnnxConfig._TASK_TO_COMMON_OUTPUTS
    return {task: tuple(outputs) for task, outputs in table.items()}


def _own_outputs(config: Mapping[str, Any], task: str, library: str | None) -> tuple[tuple[str, ...] | None, bool]:
    """Return the outputs in Optimum of a model type for a task, and whether every file of such a model has them.

    The outputs are None if they are not available. Some types are exported as several files.
    """
    try:
        import optimum.exporters.onnx.model_configs  # noqa: F401 - fills Optimum's table of models
        from optimum.exporters.onnx.base import OnnxConfig
        from optimum.exporters.tasks import TasksManager

        from optimum_htp.fit.weightless import config_of

        make = TasksManager.get_exporter_config_constructor(
            "onnx", model_type=model_type_of(config), task=task, library_name=library or "transformers"
        )
        exporter = make(config_of(config))
        return tuple(exporter.outputs), type(exporter).VARIANTS == OnnxConfig.VARIANTS
    except (ConfigLoadError, *_UNBUILT):
        return None, True


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names)[:3]) or "nothing"
