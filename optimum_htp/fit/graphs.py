"""Checks whether a graph can be an export of a model. A graph of another model must not be stamped.

Inputs, outputs and the shapes of weights are compared with the model: with its class and the headers of its
checkpoint's files if they are available, and before a rejection with the model as PyTorch builds it from its config
without weights, which takes seconds. Exporters rename, transpose, fuse and quantize, so single differences do not
count. Differences that no export of such a model has do count.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Final

from optimum_htp.errors import ConfigLoadError
from optimum_htp.fit.blueprint import Blueprint, Parameters, blueprint_of_parameters
from optimum_htp.fit.outputs import output_mismatch, past_mismatch
from optimum_htp.hierarchy.tree import loose_shape
from optimum_htp.libraries.tables import config_names
from optimum_htp.libraries.tasks import class_for_task
from optimum_htp.onnxfile import Graph, Initializer, Node
from optimum_htp.onnxfile.operators import PASSED_THROUGH
from optimum_htp.resolve.config_fit import LABELLED_TASKS, label_mismatch

__all__ = ["GraphFit", "graph_fit", "graph_mismatch", "task_fit"]

_CONFIGS: Final = "transformers.models.auto.configuration_auto"
# One of these is the main input of a model. A separate decoder has another.
_MAIN_INPUTS: Final = frozenset({"input_ids", "pixel_values", "input_values", "input_features"})
_OF_ANY_KIND: Final = "inputs"
"""The input of models for text, images and sounds. Exporters use the name of the specific kind."""
_ENCODER_OUTPUT: Final = "encoder_hidden_states"
# Inputs of parts that were extracted from a model. A whole model has none of them.
_INPUTS_OF_PARTS: Final = frozenset(
    {
        _ENCODER_OUTPUT,
        "encoder_attention_mask",
        "decoder_input_ids",
        "image_positional_embeddings",
        "inputs_embeds",
        "output_sequence",
        "spectrogram",
        "use_cache_branch",
    }
)
# Inputs of the parts of a diffusion pipeline.
_INPUTS_OF_PIPELINES: Final = frozenset({"sample", "latent_sample", "timestep", "hidden_states"})
_QUANTIZED: Final = frozenset({"int8", "uint8", "int4", "uint4", "int2", "uint2"})
_FUSED: Final = (1, 2, 3, 4)  # Matrices that an exporter or optimizer merges into one: query, key and value.
# A parameter's name in the output of PyTorch's exporters; quantizers append to it.
_PARAMETER: Final = re.compile(r"[A-Za-z_]\w*(?:\.\w+)+?\.(?:weight|bias)(?![a-z])")
_PAST: Final = re.compile(r"past_key_values\.(\d{1,6})\.")
_LAYERS: Final = 0.75  # Share of the layers; some models have no past for the last ones.
_CHAIN: Final = 7  # Operators between an embedding and its lookup, in quantized and converted graphs.
_FEW: Final = 4  # Names; with fewer, names are not compared.
_SMALL: Final = 32  # Elements; smaller matrices are not counted as weights.
_STRANGE: Final = 0.25  # Share of the names that the model may not know.
_LIKE: Final = 0.5  # Share of the matrices that must belong to the model.
_SAME: Final = 0.9  # The same share, if the names of the inputs are not specific.
_PLACES: Final = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")
_SHOWN: Final = 60  # Characters.
_NO_CONFIG: Final = "there is no config to compute them from"
_WHOLE: Final = (0.3, 3)  # Share of the model's elements, if the graph is not a part of it.


@dataclass(frozen=True)
class GraphFit:
    """The result of comparing a graph with a model.

    Attributes:
        mismatch: Why the graph cannot be an export of the model; None if there is no contradiction.
        unchecked: The comparisons that could not be done (`outputs`, `shapes`), with the reason.
    """

    mismatch: str | None = None
    unchecked: Mapping[str, str] = field(default_factory=dict)


def graph_mismatch(
    config: Mapping[str, Any],
    task: str | None,
    graph: Graph,
    library: str | None = None,
    parameters: Callable[[], Parameters | None] | None = None,
) -> str | None:
    """Return why a graph cannot be an export of a model; None if there is no contradiction. See `graph_fit`."""
    return graph_fit(config, task, graph, library, parameters).mismatch


def graph_fit(
    config: Mapping[str, Any],
    task: str | None,
    graph: Graph,
    library: str | None = None,
    parameters: Callable[[], Parameters | None] | None = None,
) -> GraphFit:
    """Compare a graph with a model and with the Optimum task that it is said to be for.

    Args:
        library: The library of the model; None for transformers.
        parameters: Returns the shapes of the model's weights, None if they are unknown. With them, PyTorch is
            imported only before a graph is rejected.
    """
    if others := [spec.name for spec in (*graph.inputs, *graph.outputs) if spec.dtype is None]:
        return GraphFit(
            f"{others[0]} is not a tensor in the graph, but all inputs and outputs of such models are tensors"
        )
    reason, shapes = _model_mismatch(config, task, graph, library, parameters)
    if reason is not None:
        return GraphFit(reason)
    fit = task_fit(config, task, graph, library)
    return fit if shapes is None else GraphFit(fit.mismatch, {**fit.unchecked, "shapes": shapes})


def task_fit(config: Mapping[str, Any], task: str | None, graph: Graph, library: str | None) -> GraphFit:
    """Compare the outputs of a graph with those that its task needs. The arguments are those of `graph_fit`."""
    if (reason := past_mismatch(graph)) is not None:
        return GraphFit(reason)
    reason, unknown = output_mismatch(config, task, graph, library)
    return GraphFit(reason, {} if unknown is None else {"outputs": unknown})


def _model_mismatch(
    config: Mapping[str, Any],
    task: str | None,
    graph: Graph,
    library: str | None,
    parameters: Callable[[], Parameters | None] | None,
) -> tuple[str | None, str | None]:
    """Compare a graph with a model's config and weights; also return why shapes could not be compared."""
    if library not in (None, "transformers") or not config:
        why = f"models of {library} are not built for this check" if config else _NO_CONFIG
        return _mismatch(config, task, graph, None), why
    class_name = class_for_task(task, config, "transformers") if task is not None else None
    known = parameters() if parameters is not None else None
    likely = blueprint_of_parameters(config, class_name, known) if known is not None else None
    if likely is not None and _mismatch(config, task, graph, likely) is None:
        return None, None
    kind = str(config.get("model_type"))
    if kind not in config_names() and _CONFIGS not in sys.modules:  # No code has added it.
        return _mismatch(config, task, graph, None), f"transformers has no model type {kind[:_SHOWN]}"
    from optimum_htp.fit.weightless import blueprint_of

    try:
        blueprint = blueprint_of(config, class_name)
    except ConfigLoadError as error:
        return _mismatch(config, task, graph, None), str(error)
    return _mismatch(config, task, graph, blueprint), None if blueprint.shapes else "the model has no weights"


def _mismatch(config: Mapping[str, Any], task: str | None, graph: Graph, blueprint: Blueprint | None) -> str | None:
    """Compare a graph with a model; without its blueprint only with its config."""
    weights = [tensor for tensor in graph.tensors if len(loose_shape(tensor.shape)) > 1 and _size(tensor) >= _SMALL]
    if reason := _input_mismatch(graph, weights, blueprint, config):
        return reason
    if task in LABELLED_TASKS and (reason := label_mismatch(config, graph.outputs)) is not None:
        return reason
    vocabulary = config.get("vocab_size")
    for rows in _looked_up_rows(graph):
        if isinstance(vocabulary, int) and rows != vocabulary:
            return f"the model has a vocabulary of {vocabulary}, but the graph's embedding has {rows} rows"
    return _name_mismatch(graph, blueprint) or _weight_mismatch(weights, blueprint, config)


def _input_mismatch(
    graph: Graph, weights: list[Initializer], blueprint: Blueprint | None, config: Mapping[str, Any]
) -> str | None:
    taken = [spec.name for spec in graph.inputs]
    known = blueprint.inputs if blueprint is not None else _MAIN_INPUTS | _INPUTS_OF_PIPELINES
    takes_any = blueprint is not None and blueprint.main_input == _OF_ANY_KIND
    if takes_any:
        known |= _MAIN_INPUTS
    if not any(name in known or name in _INPUTS_OF_PARTS or name.startswith("past_key_values") for name in taken):
        if blueprint is not None and _share_of(weights, blueprint, exact=True) >= _SAME:
            return None  # The inputs were renamed.
        shown = ", ".join(sorted(known & _MAIN_INPUTS) or sorted(known)[:3])
        return f"the model takes {shown}, but the graph takes {', '.join(sorted(taken)[:3]) or 'nothing'}"
    if blueprint is None or _has_parts(config):
        return None
    given = set(taken) & _MAIN_INPUTS
    if blueprint.main_input is not None and given and not takes_any and blueprint.main_input not in given:
        return f"the model takes {blueprint.main_input}, but the graph takes {', '.join(sorted(given))}"
    past = [int(found[1]) + 1 for name in taken if (found := _PAST.match(name))]
    if past and not blueprint.generates:
        return "the graph takes past key values, but the model has none"
    if past and blueprint.layers and not _LAYERS * blueprint.layers <= max(past) <= blueprint.layers:
        return f"the graph takes the past of {max(past)} layers, but the model has {blueprint.layers}"
    for name in taken:
        if name == _ENCODER_OUTPUT and not (config.get("is_decoder") or config.get("add_cross_attention")):
            return f"the graph takes {name}, but the model has no encoder"
    return None


def _name_mismatch(graph: Graph, blueprint: Blueprint | None) -> str | None:
    """Compare the names of weights if the exporter kept them, also after the name of an outer model."""
    if blueprint is None:
        return None
    named = [found[0] for tensor in graph.tensors if (found := _PARAMETER.match(tensor.name))]
    if len(named) < _FEW:
        return None
    own = blueprint.prefixes | {name.partition(".")[0] for name in blueprint.names}
    others = {kind.replace("-", "_") for kind in config_names()} - own
    foreign = [name for name in named if name.partition(".")[0] in others]
    if len(foreign) > _STRANGE * len(named):
        return f"the graph has a weight {foreign[0]}, but the model does not"
    endings = {ending for name in blueprint.names for ending in _endings(name)}
    unknown = [name for name in named if not endings.intersection(_endings(name))]
    if len(unknown) > _STRANGE * len(named):
        return f"the graph has a weight {unknown[0]}, but the model does not"
    return None


def _endings(name: str) -> tuple[str, ...]:
    """Return a parameter's name without its first parts, which depend on the exported class."""
    atoms = name.split(".")
    return tuple(".".join(atoms[start:]) for start in range(min(3, max(1, len(atoms) - 2))))


def _weight_mismatch(weights: list[Initializer], blueprint: Blueprint | None, config: Mapping[str, Any]) -> str | None:
    if not weights:
        return "the graph has no weights"
    if blueprint is None or not blueprint.shapes:
        return None
    share = _share_of(weights, blueprint)
    if share < _LIKE:
        return f"only {share:.0%} of the graph's weights have shapes of the model"
    if _has_parts(config) or _is_quantized(weights):
        return None
    # A table with a row for each word or position may be tied, cut or computed.
    tables = {value for key, value in config.items() if key in ("vocab_size", *_PLACES) and isinstance(value, int)}
    have = sum(
        _size(tensor) for tensor in weights if _is_known(tensor.shape, blueprint) and not tables & {*tensor.shape}
    )
    wanted = sum(prod(shape) * count for shape, count in blueprint.shapes.items() if not tables & {*shape})
    least, most = _WHOLE
    if wanted and not least * wanted <= have <= most * wanted:
        return f"the graph has {have:,} weight values, the model {wanted:,}"
    return None


def _has_parts(config: Mapping[str, Any]) -> bool:
    """Whether a model is or may be exported in parts: an encoder and a decoder, two towers."""
    if config.get("is_encoder_decoder"):
        return True
    return any(isinstance(value, dict) and "model_type" in value for value in config.values()) or any(
        str(key).endswith(("text_config", "vision_config", "audio_config")) for key in config
    )


def _is_quantized(weights: Iterable[Initializer]) -> bool:
    return any(tensor.dtype in _QUANTIZED for tensor in weights)


def _share_of(weights: list[Initializer], blueprint: Blueprint, *, exact: bool = False) -> float:
    """Return the share of a graph's matrices that can belong to the model, from 0 to 1."""
    if not weights or not blueprint.shapes:
        return 0.0
    if exact:
        return sum(loose_shape(tensor.shape) in blueprint.shapes for tensor in weights) / len(weights)
    if _is_quantized(weights):  # In blocks, with scales: only one size is the matrix's own.
        sides = {side for shape in blueprint.shapes for side in shape}
        return sum(any(side in sides for side in loose_shape(tensor.shape)) for tensor in weights) / len(weights)
    return sum(_is_known(tensor.shape, blueprint) for tensor in weights) / len(weights)


def _is_known(shape: tuple[int, ...], blueprint: Blueprint) -> bool:
    """Whether a matrix has the shape of a parameter, or of several in one."""
    dims = loose_shape(shape)
    if dims in blueprint.shapes:
        return True
    return any(
        tuple(sorted((*dims[:index], side // parts, *dims[index + 1 :]))) in blueprint.shapes
        for index, side in enumerate(dims)
        for parts in _FUSED
        if side % parts == 0
    )


def _size(tensor: Initializer) -> int:
    return prod(tensor.shape)


def _looked_up_rows(graph: Graph) -> Iterator[int]:
    """Yield the numbers of rows of the tables that `input_ids` indexes."""
    made_by: dict[str, Node] = {output: node for node in graph.nodes for output in node.outputs}
    shapes = {tensor.name: tensor.shape for tensor in graph.tensors}

    def origin(name: str) -> str:
        for _ in range(_CHAIN):  # Chains are short, and a hostile graph may have a cycle.
            node = made_by.get(name)
            if node is None or node.op_type not in PASSED_THROUGH or not node.inputs:
                break
            name = node.inputs[0]
        return name

    for node in graph.nodes:
        if node.op_type == "Gather" and len(node.inputs) == 2 and origin(node.inputs[1]) == "input_ids":
            shape = shapes.get(origin(node.inputs[0]), ())
            if len(shape) == 2:
                yield shape[0]
