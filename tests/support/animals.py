"""A tiny model with seeded random weights: how to build it, its adjacent files, and its inputs.

All weights are noisy, including norms and biases, so no two parameters are equal.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.support.models import _bert_tokenizer, _seeded, _spread_logits, _word_tokenizer

__all__ = ["Animal", "configured", "inputs", "save_words"]


@dataclass(frozen=True)
class Animal:
    """An architecture.

    Attributes:
        model: Class of transformers.
        config: Class of its config, and its arguments.
        task: Optimum task of the export.
        ort_class: Optimum's class for it.
        kind: Kind of inputs: text, boxes (text and its positions), choices, image, image+text, audio, audio+text.
        preprocessor: The saved preprocessor: one of those below, or a function that saves it.
        max_difference: Between PyTorch's outputs and ONNX Runtime's, absolute.
    """

    model: str
    config: Callable[[], Any]
    task: str
    ort_class: str
    kind: str = "text"
    preprocessor: str | Callable[[Path], Any] = "bert"
    max_difference: float = 1e-4

    def save(self, folder: Path) -> Path:
        """Build the model and save it with its preprocessor."""
        import transformers

        folder.mkdir(parents=True, exist_ok=True)
        model = _seeded(getattr(transformers, self.model), self.config())
        if model.can_generate():
            _spread_logits(model)
            model.generation_config.pad_token_id = model.generation_config.pad_token_id or 0
        model.save_pretrained(folder)
        save = _PREPROCESSORS[self.preprocessor] if isinstance(self.preprocessor, str) else self.preprocessor
        save(folder)
        return folder


def configured(name: str, **values: Any) -> Callable[[], Any]:
    """Return a function that makes a config of a class of transformers."""

    def make() -> Any:
        import transformers

        return getattr(transformers, name)(**values)

    return make


def save_words(folder: Path) -> None:
    """Save a tokenizer of whole words."""
    _word_tokenizer(pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>").save_pretrained(folder)


def _images(folder: Path) -> None:
    from transformers import ViTImageProcessor

    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)


def _sounds(folder: Path) -> None:
    from transformers import Wav2Vec2FeatureExtractor

    Wav2Vec2FeatureExtractor().save_pretrained(folder)


def _speech(folder: Path) -> None:
    """Save a processor like Whisper's: with a slow and a fast tokenizer, and a normalizer."""
    from transformers import WhisperFeatureExtractor, WhisperProcessor, WhisperTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["Ġ", *letters, "<|pad|>", "<|endoftext|>", "<|startoftranscript|>"]  # the timestamps follow
    with TemporaryDirectory() as made:
        parts = {
            "vocab_file": json.dumps({word: index for index, word in enumerate(words)}),
            "merges_file": "#version: 0.2\n",
            "normalizer_file": json.dumps({"colour": "color"}),
        }
        for name, content in parts.items():
            Path(made, name).write_text(content, encoding="utf-8")
        tokenizer = WhisperTokenizerFast(**{name: str(Path(made, name)) for name in parts}, pad_token="<|pad|>")
        extractor = WhisperFeatureExtractor(feature_size=16, chunk_length=30, n_fft=400)
        WhisperProcessor(extractor, tokenizer).save_pretrained(folder)


def _clip(folder: Path) -> None:
    from transformers import CLIPImageProcessor

    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    save_words(folder)


def _pix2struct(folder: Path) -> None:
    from transformers import Pix2StructImageProcessor

    Pix2StructImageProcessor(max_patches=16, patch_size={"height": 4, "width": 4}).save_pretrained(folder)
    save_words(folder)


_PREPROCESSORS: dict[str, Callable[[Path], Any]] = {
    "bert": lambda folder: _bert_tokenizer(folder).save_pretrained(folder),
    "words": save_words,
    "images": _images,
    "sounds": _sounds,
    "speech": _speech,
    "clip": _clip,
    "pix2struct": _pix2struct,
}


def inputs(animal: Animal) -> dict[str, Any]:
    """Return a batch of inputs of a model's kind."""
    import torch

    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 20, (2, 7), generator=generator)
    text = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    images = {"pixel_values": torch.randn(2, 3, 32, 32, generator=generator)}
    return {
        "text": text,
        "boxes": {
            **text,
            "token_type_ids": tokens * 0,
            "bbox": torch.randint(0, 64, (2, 7, 4), generator=generator).sort().values,
        },
        "choices": {name: one.reshape(2, 1, 7).repeat(1, 2, 1) for name, one in text.items()},
        "image": images,
        "image+text": {**text, **images},
        "audio": {"input_values": torch.randn(2, 1600, generator=generator)},
        "audio+text": {"input_features": torch.randn(2, 16, 3000, generator=generator)},
        "patches": {
            "flattened_patches": torch.cat(
                [torch.arange(1, 17).reshape(1, 16, 1).expand(2, 16, 2).float() % 4, torch.randn(2, 16, 48)], dim=2
            ),
            "attention_mask": torch.ones(2, 16, dtype=torch.int64),
        },
    }[animal.kind]
