"""The inputs that Optimum itself would run a part of a model with: those of the export's own dummy run.

Its configs for the exporter know what a type of model needs of its values and sizes: that each row of a classifier
ends in `eos`, how deep an XPath is, which mask belongs to a waveform. They need the model's config alone; the model is
built without its weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

from optimum_htp.fit.weightless import build_model
from optimum_htp.masking import get_logger
from optimum_htp.metadata import ExportMetadata
from optimum_htp.onnxfile import TensorSpec
from optimum_htp.resolve.configs import ConfigSource, folder_of, load_config

__all__ = ["dummy_inputs"]

logger = get_logger(__name__)

_LIBRARY: Final = "transformers"
_WHOLE: Final = "model"
_MERGED: Final = "_merged"
_FAILURES: Final = (ValueError, TypeError, KeyError, IndexError, AttributeError, ImportError, RuntimeError, OSError)


def dummy_inputs(
    record: ExportMetadata, source: ConfigSource, inputs: Sequence[TensorSpec], shapes: Mapping[str, int]
) -> dict[str, Any]:
    """Return numpy arrays by input name; none where Optimum cannot make those of the model.

    Args:
        record: Of the file.
        source: Where its config is.
        inputs: Of the file.
        shapes: Sizes by Optimum's names.
    """
    if record.export_library != _LIBRARY or record.task is None:
        return {}
    try:
        made = dict(_flat(_exporter_config(record, source), [spec.name for spec in inputs], shapes))
    except _FAILURES as error:
        logger.info("Optimum makes no inputs for %s (%s): they are made by their names.", record.source, error)
        return {}
    fitting = {spec.name: _as_input(made[spec.name], spec) for spec in inputs if spec.name in made}
    return {name: array for name, array in fitting.items() if array is not None}


def _exporter_config(record: ExportMetadata, source: ConfigSource) -> Any:
    """Return the `OnnxConfig` of the part of the model that a file is."""
    import optimum.exporters.onnx.model_configs  # noqa: F401 - fills Optimum's table of models
    from optimum.exporters.onnx.utils import _get_submodels_and_onnx_configs
    from optimum.utils.save_utils import maybe_load_preprocessors

    model = build_model(record.model_class, load_config(source, record))
    _, parts = _get_submodels_and_onnx_configs(
        model=model,
        task=record.task,
        monolith=not record.onnx_files and model.config.is_encoder_decoder,
        custom_onnx_configs={},
        custom_architecture=False,
        _variant="default",
        library_name=_LIBRARY,
        preprocessors=maybe_load_preprocessors(folder_of(source)),
    )
    name = PurePosixPath(record.onnx_file or _WHOLE).stem  # perhaps with the suffix of a quantizer
    known = [part for part in parts if name.startswith(part) and _MERGED not in name]
    last = next(reversed(parts))  # what a merged decoder mostly runs as
    _, config = parts[max(known, key=len, default=last)]
    return config


def _flat(config: Any, names: Sequence[str], shapes: Mapping[str, int]) -> Iterator[tuple[str, Any]]:
    """Yield Optimum's dummy inputs under the names of the file's inputs, as its validation does."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)  # the same in every run
        made = config.generate_dummy_inputs(framework="pt", **shapes)
    made = config.rename_ambiguous_inputs(made)
    for name, value in config.generate_dummy_inputs_for_validation(made, list(names)).items():
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
