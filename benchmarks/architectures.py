"""Tiny models of the architectures in Optimum's table that the tests' own list lacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.support.animals import Animal, configured
from tests.support.zoo import DEMANDING, ZOO

__all__ = ["ARCHITECTURES"]

_WIDTH = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
_TEXT = {**_WIDTH, "vocab_size": 60, "max_position_embeddings": 64}
_CAUSAL = {**_TEXT, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_OLD = {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
_XLM = {"vocab_size": 60, "emb_dim": 32, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 64}
_BART = {
    "vocab_size": 60,
    "d_model": 32,
    "max_position_embeddings": 64,
    **{
        f"{part}_{name}": size
        for part in ("encoder", "decoder")
        for name, size in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 37))
    },
}
_T5 = {"vocab_size": 60, "d_model": 32, "d_kv": 8, "d_ff": 37, "num_layers": 2, "num_heads": 4}
_IMAGE = {**_WIDTH, "image_size": 32, "patch_size": 8}
_STAGES = {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1]}
_PYRAMID = {**_STAGES, "num_attention_heads": [1, 2, 2, 4]}
_SOUND = {
    **_WIDTH,
    "vocab_size": 60,
    "conv_dim": [16, 16],
    "conv_stride": [5, 2],
    "conv_kernel": [10, 3],
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
_TOWERS = {
    "text_config": {**_TEXT, "projection_dim": 32, "max_position_embeddings": 16},
    "vision_config": {**_IMAGE, "projection_dim": 32},
    "projection_dim": 32,
}


def _detr_config() -> Any:
    from transformers import DetrConfig, ResNetConfig

    backbone = ResNetConfig(embedding_size=8, **_STAGES, out_features=["stage4"])
    layers = {f"{part}_{name}": size for part in ("encoder", "decoder") for name, size in (("layers", 1),)}
    heads = {f"{part}_attention_heads": 4 for part in ("encoder", "decoder")}
    widths = {f"{part}_ffn_dim": 37 for part in ("encoder", "decoder")}
    timm = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}
    return DetrConfig(d_model=32, num_queries=5, **layers, **heads, **widths, **timm, backbone_config=backbone)


def _nothing(folder: Path) -> None:
    """Save no preprocessor: these models never get a text or an image."""


def _of(model: str, config: str | Callable[[], Any], task: str = "auto", **values: Any) -> Animal:
    made = configured(config, **values) if isinstance(config, str) else config
    return Animal(model, made, task, "", preprocessor=_nothing)


_OTHERS: dict[str, Animal] = {
    "gemma": _of("GemmaForCausalLM", "GemmaConfig", **_CAUSAL, head_dim=8),
    "gemma2": _of("Gemma2ForCausalLM", "Gemma2Config", **_CAUSAL, head_dim=8),
    "gemma3": _of("Gemma3ForCausalLM", "Gemma3TextConfig", **_CAUSAL, head_dim=8),
    "nemotron": _of("NemotronForCausalLM", "NemotronConfig", **_CAUSAL),
    "mistral": _of("MistralForCausalLM", "MistralConfig", **_CAUSAL),
    "phi": _of("PhiForCausalLM", "PhiConfig", **{**_CAUSAL, "num_key_value_heads": 4}),
    "phi3": _of("Phi3ForCausalLM", "Phi3Config", **_CAUSAL),
    "qwen3": _of("Qwen3ForCausalLM", "Qwen3Config", **_CAUSAL, head_dim=8),
    "granite": _of("GraniteForCausalLM", "GraniteConfig", **_CAUSAL),
    "olmo": _of("OlmoForCausalLM", "OlmoConfig", **_CAUSAL),
    "olmo2": _of("Olmo2ForCausalLM", "Olmo2Config", **_CAUSAL),
    "cohere": _of("CohereForCausalLM", "CohereConfig", **_CAUSAL),
    "helium": _of("HeliumForCausalLM", "HeliumConfig", **_CAUSAL, head_dim=8),
    "stablelm": _of("StableLmForCausalLM", "StableLmConfig", **_CAUSAL),
    "smollm3": _of("SmolLM3ForCausalLM", "SmolLM3Config", **_CAUSAL),
    "bloom": _of("BloomForCausalLM", "BloomConfig", vocab_size=60, hidden_size=32, n_layer=2, n_head=4),
    "mpt": _of("MptForCausalLM", "MptConfig", vocab_size=60, d_model=32, n_layers=2, n_heads=4, max_seq_len=64),
    "falcon": _of("FalconForCausalLM", "FalconConfig", **_TEXT),
    "falcon with ALiBi": _of("FalconForCausalLM", "FalconConfig", **_TEXT, alibi=True),
    "gpt_bigcode": _of("GPTBigCodeForCausalLM", "GPTBigCodeConfig", **_OLD),
    "gpt_neo": _of(
        "GPTNeoForCausalLM",
        "GPTNeoConfig",
        vocab_size=60,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        max_position_embeddings=64,
    ),
    "gpt_neox": _of("GPTNeoXForCausalLM", "GPTNeoXConfig", **_TEXT),
    "gptj": _of("GPTJForCausalLM", "GPTJConfig", **_OLD, rotary_dim=4),
    "codegen": _of("CodeGenForCausalLM", "CodeGenConfig", **_OLD, rotary_dim=4),
    "opt": _of(
        "OPTForCausalLM",
        "OPTConfig",
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=37,
        max_position_embeddings=64,
        word_embed_proj_dim=32,
    ),
    "marian": _of("MarianMTModel", "MarianConfig", **_BART, pad_token_id=1, decoder_start_token_id=1),
    "pegasus": _of("PegasusForConditionalGeneration", "PegasusConfig", **_BART),
    "m2m_100": _of("M2M100ForConditionalGeneration", "M2M100Config", **_BART),
    "blenderbot": _of("BlenderbotForConditionalGeneration", "BlenderbotConfig", **_BART),
    "mt5": _of("MT5ForConditionalGeneration", "MT5Config", **_T5),
    "longt5": _of("LongT5ForConditionalGeneration", "LongT5Config", **_T5, local_radius=8),
    "speech_to_text": _of(
        "Speech2TextForConditionalGeneration",
        "Speech2TextConfig",
        **_BART,
        input_feat_per_channel=80,
        conv_channels=32,
    ),
    "modernbert": _of(
        "ModernBertForMaskedLM",
        "ModernBertConfig",
        **_TEXT,
        pad_token_id=0,
        cls_token_id=1,
        bos_token_id=1,
        eos_token_id=2,
        sep_token_id=2,
        global_attn_every_n_layers=2,
    ),
    "camembert": _of("CamembertForSequenceClassification", "CamembertConfig", **_TEXT),
    "convbert": _of("ConvBertForSequenceClassification", "ConvBertConfig", **_TEXT, embedding_size=32),
    "deberta": _of(
        "DebertaForSequenceClassification",
        "DebertaConfig",
        **_TEXT,
        relative_attention=True,
        pos_att_type=["c2p", "p2c"],
    ),
    "flaubert": _of("FlaubertModel", "FlaubertConfig", **_XLM),
    "ibert": _of("IBertModel", "IBertConfig", **_TEXT),
    "layoutlm": _of("LayoutLMModel", "LayoutLMConfig", **_TEXT),
    "lilt": _of("LiltModel", "LiltConfig", **{**_TEXT, "hidden_size": 48}, max_2d_position_embeddings=64),
    "mobilebert": _of(
        "MobileBertModel",
        "MobileBertConfig",
        **_TEXT,
        embedding_size=16,
        intra_bottleneck_size=16,
        true_hidden_size=16,
    ),
    "nystromformer": _of(
        "NystromformerModel", "NystromformerConfig", **_TEXT, num_landmarks=4, segment_means_seq_len=16
    ),
    "rembert": _of("RemBertModel", "RemBertConfig", **_TEXT, input_embedding_size=16),
    "roformer": _of("RoFormerModel", "RoFormerConfig", **_TEXT),
    "splinter": _of("SplinterModel", "SplinterConfig", **_TEXT),
    "xlm": _of("XLMModel", "XLMConfig", **_XLM),
    "xlm-roberta": _of("XLMRobertaModel", "XLMRobertaConfig", **_TEXT),
    "esm": _of("EsmModel", "EsmConfig", **_TEXT, mask_token_id=4, pad_token_id=1, position_embedding_type="rotary"),
    "megatron-bert": _of("MegatronBertModel", "MegatronBertConfig", **_TEXT),
    "perceiver": _of(
        "PerceiverForMaskedLM",
        "PerceiverConfig",
        vocab_size=60,
        d_model=32,
        d_latents=32,
        num_latents=8,
        num_blocks=1,
        num_self_attends_per_block=2,
        num_self_attention_heads=4,
        num_cross_attention_heads=4,
        max_position_embeddings=64,
        qk_channels=32,
        v_channels=32,
    ),
    "vit": _of("ViTForImageClassification", "ViTConfig", **_IMAGE),
    "deit": _of("DeiTModel", "DeiTConfig", **_IMAGE),
    "beit": _of("BeitForImageClassification", "BeitConfig", **_IMAGE, use_relative_position_bias=True),
    "data2vec-vision": _of("Data2VecVisionModel", "Data2VecVisionConfig", **_IMAGE),
    "dinov2": replace(_of("Dinov2Model", "Dinov2Config", **_IMAGE), preprocessor="images"),
    "yolos": _of(
        "YolosForObjectDetection", "YolosConfig", **{**_IMAGE, "image_size": [32, 32]}, num_detection_tokens=4
    ),
    "vit_mae": _of(
        "ViTMAEModel",
        "ViTMAEConfig",
        **_IMAGE,
        decoder_hidden_size=32,
        decoder_num_attention_heads=4,
        decoder_num_hidden_layers=1,
        decoder_intermediate_size=37,
        mask_ratio=0.0,
    ),
    "vit_msn": _of("ViTMSNModel", "ViTMSNConfig", **_IMAGE),
    "dpt": _of(
        "DPTForDepthEstimation",
        "DPTConfig",
        **{**_IMAGE, "num_hidden_layers": 4},
        neck_hidden_sizes=[16, 16, 16, 16],
        backbone_out_indices=[0, 1, 2, 3],
        fusion_hidden_size=16,
        reassemble_factors=[4, 2, 1, 0.5],
    ),
    "glpn": _of("GLPNForDepthEstimation", "GLPNConfig", **_PYRAMID, decoder_hidden_size=8),
    "pvt": _of("PvtForImageClassification", "PvtConfig", image_size=32, **_PYRAMID),
    "levit": _of(
        "LevitForImageClassification",
        "LevitConfig",
        image_size=64,
        hidden_sizes=[16, 32, 48],
        num_attention_heads=[2, 4, 6],
        depths=[1, 1, 1],
        key_dim=[8, 8, 8],
    ),
    "mobilevit": _of(
        "MobileViTForImageClassification",
        "MobileViTConfig",
        image_size=64,
        hidden_sizes=[16, 24, 32],
        neck_hidden_sizes=[8, 8, 16, 16, 24, 24, 32],
        num_attention_heads=4,
    ),
    "mobilenet_v1": _of(
        "MobileNetV1ForImageClassification", "MobileNetV1Config", image_size=32, depth_multiplier=0.25
    ),
    "mobilenet_v2": _of(
        "MobileNetV2ForImageClassification", "MobileNetV2Config", image_size=32, depth_multiplier=0.35
    ),
    "efficientnet": _of(
        "EfficientNetForImageClassification",
        "EfficientNetConfig",
        image_size=32,
        width_coefficient=0.25,
        depth_coefficient=0.3,
        hidden_dim=320,
    ),
    "regnet": _of("RegNetForImageClassification", "RegNetConfig", embedding_size=8, **_STAGES, groups_width=8),
    "poolformer": _of("PoolFormerForImageClassification", "PoolFormerConfig", **_STAGES),
    "cvt": _of("CvtForImageClassification", "CvtConfig", embed_dim=[8, 16, 32], num_heads=[1, 2, 4], depth=[1, 2, 3]),
    "convnextv2": _of("ConvNextV2ForImageClassification", "ConvNextV2Config", **_STAGES),
    "detr": _of("DetrForObjectDetection", _detr_config),
    "owlvit": _of("OwlViTForObjectDetection", "OwlViTConfig", **_TOWERS),
    "owlv2": _of("Owlv2ForObjectDetection", "Owlv2Config", **_TOWERS),
    "siglip": _of(
        "SiglipModel",
        "SiglipConfig",
        text_config={**_TEXT, "max_position_embeddings": 16, "projection_size": 32},
        vision_config=_IMAGE,
    ),
    "audio-spectrogram-transformer": _of(
        "ASTForAudioClassification", "ASTConfig", **_WIDTH, max_length=64, num_mel_bins=32, patch_size=8
    ),
    "sew": _of("SEWForCTC", "SEWConfig", **_SOUND, num_feat_extract_layers=2, feature_layer_norm=False),
    "wav2vec2-conformer": _of("Wav2Vec2ConformerForCTC", "Wav2Vec2ConformerConfig", **_SOUND),
    "patchtst": _of(
        "PatchTSTForPrediction",
        "PatchTSTConfig",
        "time-series-forecasting",
        num_input_channels=2,
        context_length=32,
        prediction_length=8,
        patch_length=8,
        patch_stride=8,
        num_hidden_layers=2,
        d_model=32,
        num_attention_heads=4,
        ffn_dim=37,
        random_mask_ratio=0.0,
        do_mask_input=False,
    ),
}

ARCHITECTURES: dict[str, Animal] = {**ZOO, **DEMANDING, **_OTHERS}
