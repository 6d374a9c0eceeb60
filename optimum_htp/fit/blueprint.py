"""Facts about a model without building it: from its config, the source of its class and the shapes of its weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from optimum_htp.fit.parameters import Parameters
from optimum_htp.libraries.class_sources import default_in_config, source_of_model
from optimum_htp.libraries.config_content import config_fault

__all__ = ["Blueprint", "blueprint_of_parameters", "counted"]


@dataclass(frozen=True)
class Blueprint:
    """Facts about a model without its weights.

    Attributes:
        inputs: Names of the inputs of its `forward`.
        main_input: Name of the main input.
        generates: Whether it generates sequences, so it may have past key values.
        layers: Number of layers, if its config contains one number.
        names: Names of its parameters and buffers.
        prefixes: First parts of names that a head of this model may put before those of the model.
        shapes: Number of parameters of each shape; shapes are sorted, without sizes of 1, because exporters transpose.
    """

    inputs: frozenset[str]
    main_input: str | None
    generates: bool
    layers: int | None
    names: frozenset[str]
    prefixes: frozenset[str]
    shapes: Mapping[tuple[int, ...], int]


def blueprint_of_parameters(
    config: Mapping[str, Any], class_name: str | None, parameters: Parameters
) -> Blueprint | None:
    """Return the facts about a model of transformers from the shapes of its checkpoint's weights.

    Args:
        config: Content of its `config.json`.
        class_name: The class; None for the class in the config.
        parameters: Shapes of the weights by name.

    Returns:
        None if the facts are incomplete: packed weights, or a model type that transformers does not have.
    """
    model_type, names = str(config.get("model_type")), config.get("architectures")
    if config_fault(config) is not None or config.get("quantization_config") is not None or not parameters:
        return None
    named = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else None
    source = source_of_model(model_type, class_name or named)
    if source is None:
        return None
    layers = None
    if (attribute := default_in_config(model_type, "num_hidden_layers")) is not None:
        layers = config.get(attribute[0], config.get("num_hidden_layers", attribute[1]))
    return Blueprint(
        inputs=source.inputs,
        main_input=source.main_input,
        generates=source.generates,
        layers=layers if isinstance(layers, int) else None,
        names=frozenset(parameters),
        prefixes=frozenset({model_type, source.prefix}),
        shapes=counted(parameters.values()),
    )


def counted(shapes: Iterable[Iterable[int]]) -> Mapping[tuple[int, ...], int]:
    """Return the number of matrices of each shape. Shapes are sorted, without sizes of 1."""
    found = Counter(tuple(sorted(side for side in shape if side != 1)) for shape in shapes)
    return {shape: count for shape, count in found.items() if len(shape) > 1}
