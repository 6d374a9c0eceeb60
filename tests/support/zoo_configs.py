"""Sizes and configs that models of the zoo share."""

from __future__ import annotations

from typing import Any

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
DECODER = {**SMALL, "vocab_size": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

AUDIO = {
    **{key: value for key, value in SMALL.items() if key != "max_position_embeddings"},
    "conv_dim": (16, 16),
    "conv_stride": (5, 4),
    "conv_kernel": (10, 8),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "tdnn_dim": (16, 16),
    "tdnn_kernel": (3, 1),
    "tdnn_dilation": (1, 1),
    "xvector_output_dim": 8,
    "num_labels": 3,
}
BERT = {**SMALL, "vocab_size": 40}
CONV_IMAGE = {"image_size": 32, "num_labels": 4}


def clip_config() -> Any:
    from transformers import CLIPConfig

    text = {**SMALL, "vocab_size": 40, "projection_dim": 16, "eos_token_id": 2, "bos_token_id": 1}
    vision = {**SMALL, "image_size": 32, "patch_size": 8, "projection_dim": 16}
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)


def trocr_config() -> Any:
    from transformers import TrOCRConfig, VisionEncoderDecoderConfig, ViTConfig

    encoder = ViTConfig(**{**SMALL, "image_size": 32, "patch_size": 8})
    decoder = TrOCRConfig(
        vocab_size=40,
        d_model=32,
        decoder_layers=2,
        decoder_attention_heads=4,
        decoder_ffn_dim=64,
        max_position_embeddings=64,
        cross_attention_hidden_size=32,
        use_cache=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.update({"decoder_start_token_id": 1, "pad_token_id": 0, "eos_token_id": 2, "vocab_size": 40})
    return config


def pix2struct_config() -> Any:
    from transformers import Pix2StructConfig

    text = {
        "vocab_size": 40,
        "hidden_size": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 4,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }
    vision = {
        "hidden_size": 32,
        "patch_embed_hidden_size": 48,
        "d_ff": 64,
        "d_kv": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "seq_len": 64,
    }
    return Pix2StructConfig(text_config=text, vision_config=vision)
