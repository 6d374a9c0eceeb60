"""The inputs that Optimum itself would run a part of a model with: those of the export's own dummy run.

Its configs for the exporter know what a type of model needs of its values and sizes: that each row of a classifier
ends in `eos`, how deep an XPath is, which mask belongs to a waveform. They need the model's config alone; the model is
built without its weights.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

from optimum_htp.fit.weightless import build_model
from optimum_htp.masking import get_logger
from optimum_htp.metadata import ExportMetadata
from optimum_htp.onnxfile import TensorSpec
from optimum_htp.profiling.fitting import fitting_sizes, with_fixed_shapes
from optimum_htp.resolve.configs import ConfigSource, folder_of, load_config

__all__ = ["dummy_inputs", "exported_part", "inputs_of_part"]

logger = get_logger(__name__)

_LIBRARY: Final = "transformers"
_TEXT: Final = "sequence_length"
_PAST: Final = "past_sequence_length"  # is no size of Optimum's
_FAILURES: Final = (ValueError, TypeError, KeyError, IndexError, AttributeError, ImportError, RuntimeError, OSError)


def dummy_inputs(
    record: ExportMetadata, source: ConfigSource, inputs: Sequence[TensorSpec], shapes: Mapping[str, int]
) -> dict[str, Any]:
    """Return numpy arrays by input name; none where Optimum cannot make those of the model.

    Args:
        record: Of the file.
        source: Where its config is.
        inputs: Of the file.
        shapes: Sizes by Optimum's names, where the file fixes none.
    """
    if record.export_library != _LIBRARY or record.task is None:
        return {}
    try:
        model = build_model(record.model_class, load_config(source, record))
        _, config = exported_part(model, record, folder_of(source), inputs, shapes)
        _, made = inputs_of_part(config, inputs, shapes)
    except _FAILURES as error:
        logger.info("Optimum makes no inputs for %s (%s): they are made by their names.", record.source, error)
        return {}
    fitting = {spec.name: _as_input(made[spec.name], spec) for spec in inputs if spec.name in made}
    return {name: array for name, array in fitting.items() if array is not None}


def exported_part(
    model: Any, record: ExportMetadata, folder: Path, inputs: Sequence[TensorSpec], shapes: Mapping[str, int]
) -> tuple[Any, Any]:
    """Return the part of a model that a file is, and Optimum's config of that part.

    Args:
        model: The whole model.
        record: Of the file.
        folder: With the model's preprocessors.
        inputs: Of the file.
        shapes: Sizes by Optimum's names.
    """
    import optimum.exporters.onnx.model_configs  # noqa: F401 - fills Optimum's table of models
    from optimum.exporters.onnx.utils import _get_submodels_and_onnx_configs
    from optimum.utils.save_utils import maybe_load_preprocessors

    name = PurePosixPath(record.onnx_file or "").stem  # perhaps with the suffix of a quantizer
    taken = {spec.name for spec in inputs}
    found: list[tuple[int, bool, Any, Any]] = []
    # A file that was stamped alone may be one of several, whatever its name is.
    for monolith in (True, False) if model.config.is_encoder_decoder and not record.onnx_files else (False,):
        _, parts = _get_submodels_and_onnx_configs(
            model=model,
            task=record.task,
            monolith=monolith,
            custom_onnx_configs={},
            custom_architecture=False,
            _variant="default",
            library_name=_LIBRARY,
            preprocessors=maybe_load_preprocessors(folder),
        )
        for known, (part, config) in parts.items():
            made = dict(_flat(config, _made(config, {_PAST: shapes[_TEXT], **shapes}), inputs))
            found.append((len(taken ^ made.keys()), not name.startswith(known), part, config))
    _, _, part, config = min(found, key=lambda one: one[:2])
    return part, config


def inputs_of_part(
    config: Any, inputs: Sequence[TensorSpec], shapes: Mapping[str, int]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return Optimum's dummy inputs as the part takes them, and as numpy arrays by the names of the file's inputs.

    Args:
        config: Optimum's, of the part.
        inputs: Of the file.
        shapes: Sizes by Optimum's names, where the file fixes none.
    """
    start = {_PAST: shapes[_TEXT], **shapes}
    sizes = fitting_sizes(
        lambda sizes: {name: array.shape for name, array in _flat(config, _made(config, sizes), inputs)}, start, inputs
    )
    made = with_fixed_shapes(_made(config, sizes), inputs)
    return made, dict(_flat(config, made, inputs))


def _made(config: Any, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Return Optimum's dummy inputs of some sizes, as the model takes them."""
    import torch

    create = type(config)._create_dummy_input_generator_classes

    def adapted(**shapes: Any) -> list[Any]:
        """Return Optimum's generators, with a past of any length, and masks of one token."""
        generators: list[Any] = create(config, **shapes)
        for generator in generators:
            if "past_key_values" in generator.SUPPORTED_INPUT_NAMES and hasattr(generator, _TEXT):
                generator.sequence_length = sizes[_PAST]  # Optimum's is as long as the new tokens
            if sizes[_TEXT] == 1:  # Optimum's masks end in a random number of zeros: of one token that cannot be
                generator.random_mask_tensor = lambda shape, **_: torch.ones(tuple(shape), dtype=torch.int64)
        return generators

    config._create_dummy_input_generator_classes = adapted
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same in every run
        shapes = {name: size for name, size in sizes.items() if name != _PAST}
        made: dict[str, Any] = config.generate_dummy_inputs(framework="pt", **shapes)
    return made


def _flat(config: Any, made: Mapping[str, Any], inputs: Sequence[TensorSpec]) -> Iterator[tuple[str, Any]]:
    """Yield Optimum's dummy inputs under the names of the file's inputs, as its validation does."""
    renamed = config.rename_ambiguous_inputs(copy.deepcopy(dict(made)))
    names = [spec.name for spec in inputs]
    for name, value in config.generate_dummy_inputs_for_validation(renamed, names).items():
        flat = config.flatten_output_collection_property(name, value) if isinstance(value, (list, tuple)) else None
        for part, tensor in (flat or {name: value}).items():
            yield part, tensor.cpu().numpy()


def _as_input(array: Any, spec: TensorSpec) -> Any:
    """Return an array in the precision that an input takes; None where its kind or its fixed sizes are others."""
    import numpy as np

    shape = spec.shape if spec.shape is not None else array.shape
    fits = array.ndim == len(shape) and all(
        size == wanted for size, wanted in zip(array.shape, shape, strict=True) if isinstance(wanted, int)
    )
    if not fits or spec.dtype is None or not hasattr(np, spec.dtype):
        return None
    dtype = np.dtype(spec.dtype)
    return array.astype(dtype, copy=False) if array.dtype.kind == dtype.kind else None
