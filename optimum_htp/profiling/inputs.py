"""Inputs to run a file with: they have the right names, types and shapes, and arbitrary values.

Symbols in shapes (`batch_size`, `past_sequence_length + 1`) are those of Optimum's exports. Their sizes are Optimum's
defaults for dummy inputs, the sizes of images and sounds in the model's config, and the sizes from the user.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from optimum_htp.errors import OptimumHTPError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.libraries.names import CONFIG
from optimum_htp.libraries.repo_files import read_json
from optimum_htp.metadata import ExportMetadata, read_record
from optimum_htp.onnxfile import TensorSpec, read_signature
from optimum_htp.profiling.optimum_inputs import MOST, InputSizeError, dummy_inputs
from optimum_htp.resolve.config_folder import config_source
from optimum_htp.resolve.configs import ConfigSource, folder_of

__all__ = ["InputSizeError", "default_sizes", "sample_inputs"]

_PAST: Final = "past_sequence_length"
_BEFORE: Final = 8  # Tokens before the new ones.
# Sizes by a part of a symbol's name, first match first; the value is one of Optimum's names, or a number.
_SYMBOLS: Final[tuple[tuple[str, str | int], ...]] = (
    ("batch", "batch_size"),
    ("choice", "num_choices"),
    ("past", _PAST),
    ("audio", "audio_sequence_length"),
    ("frame", "nb_max_frames"),
    ("feature", "feature_size"),
    ("channel", "num_channels"),
    ("height", "height"),
    ("width", "width"),
    ("max_patches", "max_patches"),
    ("point", "point_batch_size"),
    ("sequence", "sequence_length"),
    ("length", "sequence_length"),
)
_WAVEFORMS: Final = ("input_values",)  # Optimum names their samples a sequence too.
_OF_IMAGES: Final = ("height", "width")
_MASK: Final = "mask"
_TOKENS: Final = "input_ids"
_CACHES: Final = ("past_key_values.", "input.cache.")
_OF_ENCODER: Final = {"encoder", "cross"}
_TEXT: Final = frozenset({_TOKENS, "attention_mask", "token_type_ids"})
_FROM_CONFIG: Final = {
    "num_channels": "num_channels",
    "num_mel_bins": "feature_size",
}


def sample_inputs(path: str | os.PathLike[str], shapes: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Return numpy arrays for every input of an ONNX file.

    The shapes are sizes by Optimum's names (`batch_size`, `sequence_length`, `height`, ...).

    Raises:
        InputSizeError: An input has an invalid size.
    """
    inputs, _ = read_signature(path)
    record, source = _config_source(Path(path))
    config = _config(source)
    sizes = {**default_sizes(), **_config_sizes(config), **(shapes or {}), **_fixed_sizes(inputs)}
    known: dict[str, Any] = {}
    if _take_plain_text(inputs, config):
        known = _texts(inputs, config["vocab_size"], sizes)
    elif record is not None and source is not None:
        known = dummy_inputs(record, source, inputs, sizes)
    known = {spec.name: known[spec.name] for spec in inputs if spec.name in known and _as_asked(known, spec, sizes)}
    sizes = {_PAST: _BEFORE, **sizes, **_bound(inputs, known)}
    generator = np.random.default_rng(0)
    return {spec.name: known[spec.name] if spec.name in known else _array(spec, sizes, generator) for spec in inputs}


def _as_asked(arrays: Mapping[str, Any], spec: TensorSpec, sizes: Mapping[str, int]) -> bool:
    """Whether an image has the requested size. Optimum always uses the config's."""
    pairs = zip(spec.shape or (), arrays[spec.name].shape, strict=False)
    return all(size == sizes[str(symbol)] for symbol, size in pairs if symbol in _OF_IMAGES)


def _bound(inputs: Iterable[TensorSpec], arrays: Mapping[str, Any]) -> dict[str, int]:
    """Return the sizes of symbols from arrays, including the only unknown symbol of a sum."""
    found = {
        symbol: size
        for spec in inputs
        if spec.name in arrays
        for symbol, size in zip(spec.shape or (), arrays[spec.name].shape, strict=False)
        if isinstance(symbol, str)
    }
    for symbol, size in list(found.items()):
        terms = [term.strip() for term in symbol.split("+")]
        unknown = [term for term in terms if not term.isdigit() and term not in found]
        if len(terms) > 1 and len(unknown) == 1:
            known = sum(int(term) if term.isdigit() else found[term] for term in terms if term not in unknown)
            found[unknown[0]] = size - known
    return found


def _fixed_sizes(inputs: Iterable[TensorSpec]) -> dict[str, int]:
    """Return fixed sizes of inputs for sizes that are symbols in other inputs, as far as the names match."""
    found: dict[str, int] = {}
    first = [spec.shape[0] for spec in inputs if spec.shape and len(spec.shape) > 1]
    fixed = {size for size in first if isinstance(size, int)}
    if len(fixed) == 1 and len(first) > 1:
        found["batch_size"] = fixed.pop()
    for spec in inputs:
        shape = spec.shape or ()
        if spec.name == _TOKENS and len(shape) == 2 and isinstance(shape[1], int):
            found["sequence_length"] = shape[1]
        is_past = spec.name.startswith(_CACHES) and _OF_ENCODER.isdisjoint(re.split(r"[._]", spec.name))
        if is_past and len(shape) == 4 and isinstance(shape[2], int):
            found[_PAST] = shape[2]
    return found


def _array(spec: TensorSpec, sizes: Mapping[str, int], generator: np.random.Generator) -> Any:
    shape = [_size(dimension, spec.name, sizes) for dimension in spec.shape or ()]
    if min(shape, default=1) < 0 or math.prod(map(float, shape)) > MOST:
        raise InputSizeError(
            f"The input {spec.name[:60]!r} has the shape {shape[:8]}, which cannot be generated. Pass --inputs."
        )
    dtype = np.dtype(spec.dtype if spec.dtype not in (None, "bfloat16", "string") else "float32")
    if dtype.kind == "b":
        return np.ones(shape, dtype)
    if dtype.kind in "iu":  # Tokens, masks and positions; 1 is a token of every vocabulary.
        return np.ones(shape, dtype) if _MASK in spec.name else generator.integers(0, 2, shape).astype(dtype)
    return generator.random(shape, np.float32).astype(dtype)


def _size(dimension: int | str | None, name: str, sizes: Mapping[str, int]) -> int:
    """Return the size of a dimension: a number, a symbol, or a sum of these."""
    if isinstance(dimension, int):
        return dimension
    if dimension is None:
        return 1
    if name in _WAVEFORMS and "batch" not in dimension:
        return sizes["audio_sequence_length"]
    return sum(_term(part.strip(), sizes) for part in dimension.split("+"))


def _term(text: str, sizes: Mapping[str, int]) -> int:
    if text.isdigit():
        return int(text)
    if text in sizes:
        return sizes[text]
    for part, size in _SYMBOLS:
        if part in re.sub(r"[^a-z_]", "", text.lower()):
            return size if isinstance(size, int) else sizes.get(size, 1)
    return 1


def default_sizes() -> dict[str, int]:
    """Return Optimum's sizes of dummy inputs, by its names."""
    from optimum.utils import DEFAULT_DUMMY_SHAPES

    return {name: size for name, size in DEFAULT_DUMMY_SHAPES.items() if isinstance(size, int)}


def _config_source(path: Path) -> tuple[ExportMetadata | None, ConfigSource | None]:
    """Return a file's record and the location of its config; None for a config that is not available."""
    try:
        record = read_record(path)
        return record, config_source(path, record, HubAccess(), None, False, needed=False)
    except OptimumHTPError:
        return None, None


def _config(source: ConfigSource | None) -> Mapping[str, Any]:
    """Return the content of a model's config; an empty mapping without a config."""
    content = read_json(folder_of(source) / CONFIG) if source is not None else None
    return content if isinstance(content, dict) else {}


def _take_plain_text(inputs: Sequence[TensorSpec], config: Mapping[str, Any]) -> bool:
    """Whether a model takes only tokens, and any tokens: classifiers of encoder-decoders search for `eos`."""
    vocabulary = config.get("vocab_size")
    return (
        {spec.name for spec in inputs} <= _TEXT
        and not config.get("is_encoder_decoder", False)
        and isinstance(vocabulary, int)
        and 1 < vocabulary <= MOST
    )


def _texts(inputs: Iterable[TensorSpec], vocabulary: int, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Return tokens, and masks that end with 0, as Optimum's generator does, which needs the model."""
    generator, texts = np.random.default_rng(0), {}
    for spec in inputs:
        array = _array(spec, sizes, generator)
        if spec.name == _TOKENS:
            array = generator.integers(0, vocabulary, array.shape).astype(array.dtype)
        elif _MASK in spec.name and array.ndim:
            array[..., array.shape[-1] - array.shape[-1] // 4 :] = 0
        texts[spec.name] = array
    return texts


def _config_sizes(content: Mapping[str, Any]) -> dict[str, int]:
    """Return the sizes that the model's config fixes."""
    parts = [
        part for part in (content, content.get("vision_config"), content.get("encoder")) if isinstance(part, dict)
    ]
    found: dict[str, int] = {}
    for part in parts:
        size = part.get("image_size")
        height, width = size if isinstance(size, list) and len(size) == 2 else (size, size)
        if isinstance(height, int) and isinstance(width, int):
            found |= {"height": height, "width": width}
        for key, name in _FROM_CONFIG.items():
            if isinstance(part.get(key), int):
                found[name] = part[key]
        if isinstance(part.get("max_source_positions"), int) and "num_mel_bins" in part:
            found["nb_max_frames"] = 2 * part["max_source_positions"]
            found["encoder_sequence_length"] = part["max_source_positions"]
    return found
