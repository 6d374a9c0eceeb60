"""Tiny models of text and images, with noise on every parameter."""

from __future__ import annotations

from typing import Any

import torch
import transformers

_TEXT = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3} | {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
}
_PICTURE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4} | {
    "image_size": 28,
    "patch_size": 14,
}


def gemma3() -> Any:
    """Gemma3ForConditionalGeneration, whose checkpoints have other names than its parameters."""
    config = transformers.Gemma3Config(
        text_config=transformers.Gemma3TextConfig(**_TEXT, sliding_window=16),
        vision_config=transformers.SiglipVisionConfig(**_PICTURE),
        mm_tokens_per_image=4,
        image_token_index=299,
        boi_token_index=297,
        eoi_token_index=298,
    )
    return _noisy(transformers.Gemma3ForConditionalGeneration(config))


def colpali() -> Any:
    """ColPaliForRetrieval."""
    pictures = transformers.SiglipVisionConfig(**_PICTURE, projection_dim=32, num_image_tokens=4)
    whole = transformers.PaliGemmaConfig(
        text_config=transformers.GemmaConfig(**_TEXT),
        vision_config=pictures,
        image_token_index=299,
        projection_dim=32,
    )
    config = transformers.ColPaliConfig(vlm_config=whole, text_config=whole.text_config, embedding_dim=16)
    return _noisy(transformers.ColPaliForRetrieval(config))


def _noisy(model: Any) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return model.eval()
