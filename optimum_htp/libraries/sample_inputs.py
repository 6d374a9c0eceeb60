"""Sample inputs to trace a model with. Only shapes matter, values are random.

Images, audio and multimodal inputs are made by the model's own processor if it has one; all other inputs are made from
the config. The first row is padded, because transformers drops an attention mask of ones.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, Final

from optimum_htp.errors import ExportError
from optimum_htp.masking import get_logger

__all__ = ["BATCH_SIZE", "SEQUENCE_LENGTH", "SIZES", "WHOLE", "of_all_modalities", "sample_inputs", "traced_parts"]

logger = get_logger(__name__)

BATCH_SIZE: Final = 2
SEQUENCE_LENGTH: Final = 16
WHOLE: Final = "model"
"""The component of a model that is traced as one graph."""
_ENCODER: Final = "encoder"
_SMALL: Final = 100  # Number of different tokens.
_PADDED: Final = 3  # Padding tokens in the first row.
_IMAGE_SIZE: Final = 224
_RATE: Final = 16_000
_FRAMES: Final = 3000
_MELS: Final = 80
_TEXT: Final = "input_ids"
_DECODERS: Final = "decoder_input_ids"
TEXT_INPUTS: Final = frozenset({_TEXT, _DECODERS, "attention_mask", "token_type_ids"})
# Tokens that a decoder starts with, after the first one. With one token, their number would become fixed.
_BEGUN: Final = 3
SIZES: Final = {
    "batch_size": BATCH_SIZE,
    "sequence_length": SEQUENCE_LENGTH,
    "decoder_length": _BEGUN,
    "audio_length": _RATE,
}
"""The sizes of sample inputs, by the names of the arguments of `sample_inputs`."""
_OF_INPUT: Final = {"pixel_values": "image", "input_values": "audio", "input_features": "audio"}
"""The modality of a model's main input, for versions of transformers that do not declare it."""
_MOST: Final = 1 << 26  # Numbers of one input.
_PICTURE_TOKENS: Final = ("image_token_id", "image_token_index")
_PARTS: Final = ("text_config", "vision_config", "audio_config", "encoder", "decoder")


def sample_inputs(
    model: Any,
    folder: Path | None,
    *,
    generates: bool,
    batch_size: int = BATCH_SIZE,
    sequence_length: int = SEQUENCE_LENGTH,
    decoder_length: int = _BEGUN,
    audio_length: int = _RATE,
) -> dict[str, Any]:
    """Return inputs to trace a model with: for its `forward`, or for its `generate`.

    Args:
        folder: The folder of its preprocessors; None if it has none.
        decoder_length: Tokens that a decoder starts with, after the first one.
        audio_length: Samples of a sound.

    Raises:
        ExportError: The inputs of the model are unknown.
    """
    of_main = _OF_INPUT.get(model.main_input_name, "text")
    given = getattr(model, "input_modalities", None) or of_main
    modalities = {given} if isinstance(given, str) else set(given)
    taken = inspect.signature(model.forward).parameters
    # Such a model writes text (a processor would pad sounds as it pads text), or its class does
    # not declare its modalities.
    if _TEXT not in taken:
        modalities = modalities - {"text"} or {of_main}
    made: dict[str, Any] = {}
    if modalities - {"text"} and folder is not None:
        made = _processed(folder, modalities, batch_size, audio_length)
    if not made:
        for modality in sorted(modalities):
            if modality in _BY_MODALITY:
                length = audio_length if modality == "audio" else sequence_length
                made |= _BY_MODALITY[modality](model.config, taken, batch_size, length)
    made = {name: value for name, value in made.items() if name in taken}
    if _DECODERS in taken and not generates:
        made.setdefault(_DECODERS, made.get(_TEXT, _ids(model.config, batch_size, sequence_length)))
    elif _DECODERS in taken and model.config.is_encoder_decoder and decoder_length:
        made.setdefault(_DECODERS, _ids(model.config, batch_size, decoder_length))
    if not made:
        raise ExportError(
            f"Cannot make sample inputs for {type(model).__name__} (modalities: {', '.join(sorted(modalities))}). "
            "Pass sample_inputs= to HTPExporter().export."
        )
    return made


def of_all_modalities(model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return inputs of `forward`, with inputs of all other modalities that it accepts.

    If a version of transformers declares the main modality only, a model with two towers looks like a decoder with
    image input.
    """
    taken = inspect.signature(model.forward).parameters
    made = dict(inputs)
    for main, modality in _OF_INPUT.items():
        if main in taken and main not in made:
            length = _RATE if modality == "audio" else SEQUENCE_LENGTH
            others = _BY_MODALITY[modality](model.config, taken, BATCH_SIZE, length)
            made |= {name: value for name, value in others.items() if name in taken}
    return made


def traced_parts(model: Any, inputs: dict[str, Any], *, generates: bool) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Return the modules that transformers' exporters trace, with their inputs, by the name of the component.

    If the model generates, the inputs are those of its `generate`, and each stage of generation is a component.
    """
    if not generates:
        return {WHOLE: (model, inputs)}
    from transformers.exporters.utils import decompose_for_generation, decompose_multimodal, is_multimodal

    stages: dict[str, tuple[Any, dict[str, Any]]] = dict(decompose_for_generation(model, inputs))
    if is_multimodal(model):  # generate runs the encoders before the first stage, so they are not among the stages.
        stages = {**decompose_multimodal(model, inputs), **stages}
    if model.config.is_encoder_decoder:  # generate runs the encoder before the stages, which take its output.
        encoder = model.get_encoder()
        taken = inspect.signature(encoder.forward).parameters
        stages = {_ENCODER: (encoder, {name: value for name, value in inputs.items() if name in taken}), **stages}
    return stages


def _text(config: Any, taken: Mapping[str, Any], batch_size: int, sequence_length: int) -> dict[str, Any]:
    import torch

    if _TEXT not in taken:  # Otherwise, the mask would be for sounds or images.
        return {}
    ids = _ids(config, batch_size, sequence_length)
    if (picture := _picture(config)) is not None:
        ids = torch.cat([ids[:, :-1], torch.tensor([picture] * batch_size), ids[:, -1:]], dim=1)
    mask = torch.ones_like(ids)
    mask[0, : min(_PADDED, sequence_length - 1)] = 0
    made = {_TEXT: ids, "attention_mask": mask}
    kinds = _setting(config, "type_vocab_size")
    if "token_type_ids" in taken and isinstance(kinds, int) and kinds > 1:
        made["token_type_ids"] = torch.zeros_like(ids)
    return made


def _image(config: Any, taken: Mapping[str, Any], batch_size: int, sequence_length: int) -> dict[str, Any]:
    import torch

    size = _setting(config, "image_size") or _IMAGE_SIZE
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return {"pixel_values": torch.rand(_bounded(batch_size, _setting(config, "num_channels") or 3, height, width))}


def _audio(config: Any, taken: Mapping[str, Any], batch_size: int, length: int) -> dict[str, Any]:
    import torch

    if "input_features" in taken:
        positions = _setting(config, "max_source_positions")
        frames = 2 * positions if positions else _FRAMES
        shape = _bounded(batch_size, _setting(config, "num_mel_bins") or _MELS, frames)
        return {"input_features": torch.rand(shape)}
    return {"input_values": torch.rand(batch_size, length)}


def _bounded(*shape: Any) -> tuple[int, ...]:
    """Return a shape from a config; reject sizes that are not positive integers, and too many numbers."""
    if not all(isinstance(size, int) and size > 0 for size in shape) or prod(shape) > _MOST:
        size = "x".join(map(str, shape))
        raise ExportError(f"The config requires sample inputs of {size} numbers, which is too large.")
    return shape


_BY_MODALITY: Final = {"text": _text, "image": _image, "audio": _audio}


def _ids(config: Any, batch_size: int, sequence_length: int) -> Any:
    """Return tokens that are not special tokens, as far as these are known."""
    import torch

    size = _setting(config, "vocab_size") or _SMALL
    special = {_setting(config, f"{name}_token_id") for name in ("pad", "bos", "eos", "decoder_start")}
    special |= {_setting(config, name) for name in _PICTURE_TOKENS}
    usual = [token for token in range(min(size, _SMALL + len(special))) if token not in special] or [0]
    places = torch.randint(len(usual), (batch_size, sequence_length))
    return torch.tensor(usual)[places]


def _picture(config: Any) -> list[int] | None:
    """Return the tokens that represent an image in a text; None if a config does not contain them."""
    token = next((found for name in _PICTURE_TOKENS if (found := getattr(config, name, None)) is not None), None)
    count = getattr(config, "image_seq_length", None)
    return [token] * _bounded(count)[0] if isinstance(token, int) and count is not None else None


def _setting(config: Any, name: str) -> Any:
    """Return a setting of a config, or of the first part of the config that has it."""
    parts = (config, *(getattr(config, part, None) for part in _PARTS))
    return next((value for part in parts if (value := getattr(part, name, None)) is not None), None)


def _processed(folder: Path, modalities: set[str], batch_size: int, audio_length: int) -> dict[str, Any]:
    """Return the output of the model's own processor for noise; empty if it has none, or the processor fails."""
    import numpy as np
    import transformers

    generator = np.random.default_rng(0)
    auto = {frozenset({"image"}): "AutoImageProcessor", frozenset({"audio"}): "AutoFeatureExtractor"}
    try:
        processor = getattr(transformers, auto.get(frozenset(modalities), "AutoProcessor")).from_pretrained(folder)
        content: dict[str, Any] = {}
        if "text" in modalities:
            special = (getattr(processor, f"{kind}_token", None) for kind in sorted(modalities - {"text"}))
            content["text"] = [" ".join([*filter(None, special), "what is this"])] * batch_size
            content["padding"] = True
        if "image" in modalities:
            side = _IMAGE_SIZE
            pixels = [generator.integers(0, 256, (side, side, 3), np.uint8) for _ in range(batch_size)]
            content["images"] = pixels
        if "audio" in modalities:
            name = "audio" if "text" in modalities else "raw_speech"
            content[name] = [generator.standard_normal(audio_length).astype(np.float32) for _ in range(batch_size)]
            content["sampling_rate"] = getattr(processor, "sampling_rate", _RATE)
        return dict(processor(**content, return_tensors="pt"))
    except Exception as error:  # noqa: BLE001 - a processor may raise anything; for most models the config is enough
        logger.info("The processor in %s returned no sample inputs: %s: %s", folder, type(error).__name__, error)
        return {}
