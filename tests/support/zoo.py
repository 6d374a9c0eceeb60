"""A table of tiny models: one line an architecture, with the class of Optimum's that it is for."""

from __future__ import annotations

from typing import Any

from tests.support.animals import Animal, configured

_SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
_DECODER = {**_SMALL, "vocab_size": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


_AUDIO = {
    **{key: value for key, value in _SMALL.items() if key != "max_position_embeddings"},
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
_BERT = {**_SMALL, "vocab_size": 40}
_CONV_IMAGE = {"image_size": 32, "num_labels": 4}


def _clip_config() -> Any:
    from transformers import CLIPConfig

    text = {**_SMALL, "vocab_size": 40, "projection_dim": 16, "eos_token_id": 2, "bos_token_id": 1}
    vision = {**_SMALL, "image_size": 32, "patch_size": 8, "projection_dim": 16}
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)


def _trocr_config() -> Any:
    from transformers import TrOCRConfig, VisionEncoderDecoderConfig, ViTConfig

    encoder = ViTConfig(**{**_SMALL, "image_size": 32, "patch_size": 8})
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


def _pix2struct_config() -> Any:
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


ZOO: dict[str, Animal] = {
    "bert": Animal("BertForMaskedLM", configured("BertConfig", **_BERT), "fill-mask", "ORTModelForMaskedLM"),
    "distilbert": Animal(
        "DistilBertForQuestionAnswering",
        configured("DistilBertConfig", vocab_size=40, dim=32, n_layers=2, n_heads=4, hidden_dim=64),
        "question-answering",
        "ORTModelForQuestionAnswering",
    ),
    "roberta": Animal(
        "RobertaForSequenceClassification",
        configured("RobertaConfig", **_DECODER, num_labels=3),
        "text-classification",
        "ORTModelForSequenceClassification",
        preprocessor="words",
    ),
    "deberta-v2": Animal(
        "DebertaV2ForTokenClassification",
        configured("DebertaV2Config", **_BERT, num_labels=3, relative_attention=True, pos_att_type=["p2c", "c2p"]),
        "token-classification",
        "ORTModelForTokenClassification",
    ),
    "albert": Animal(
        "AlbertModel",
        configured("AlbertConfig", **_BERT, embedding_size=16),
        "feature-extraction",
        "ORTModelForFeatureExtraction",
    ),
    "mpnet": Animal("MPNetForMaskedLM", configured("MPNetConfig", **_BERT), "fill-mask", "ORTModelForMaskedLM"),
    "electra": Animal(
        "ElectraForMultipleChoice",
        configured("ElectraConfig", **_BERT, embedding_size=16),
        "multiple-choice",
        "ORTModelForMultipleChoice",
        "choices",
    ),
    "squeezebert": Animal(  # calls its layers' forward directly
        "SqueezeBertForSequenceClassification",
        configured(
            "SqueezeBertConfig",
            **_BERT,
            embedding_size=32,
            num_labels=3,
            **dict.fromkeys(
                [f"{one}_groups" for one in ("q", "k", "v", "post_attention", "intermediate", "output")], 1
            ),
        ),
        "text-classification",
        "ORTModelForSequenceClassification",
    ),
    "resnet": Animal(
        "ResNetForImageClassification",
        configured("ResNetConfig", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], num_labels=4),
        "image-classification",
        "ORTModelForImageClassification",
        "image",
        "images",
    ),
    "convnext": Animal(
        "ConvNextForImageClassification",
        configured("ConvNextConfig", hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, **_CONV_IMAGE),
        "image-classification",
        "ORTModelForImageClassification",
        "image",
        "images",
    ),
    "swin": Animal(
        "SwinForImageClassification",
        configured(
            "SwinConfig", patch_size=4, window_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4], **_CONV_IMAGE
        ),
        "image-classification",
        "ORTModelForImageClassification",
        "image",
        "images",
    ),
    "clip": Animal(
        "CLIPModel",
        _clip_config,
        "zero-shot-image-classification",
        "ORTModelForZeroShotImageClassification",
        "image+text",
        "clip",
    ),
    "segformer": Animal(
        "SegformerForSemanticSegmentation",
        configured(
            "SegformerConfig",
            num_encoder_blocks=2,
            depths=[1, 1],
            sr_ratios=[2, 1],
            hidden_sizes=[16, 32],
            patch_sizes=[3, 3],
            strides=[2, 2],
            num_attention_heads=[2, 4],
            mlp_ratios=[2, 2],
            decoder_hidden_size=16,
            num_labels=4,
        ),
        "semantic-segmentation",
        "ORTModelForSemanticSegmentation",
        "image",
        "images",
    ),
    "swin2sr": Animal(
        "Swin2SRForImageSuperResolution",
        configured("Swin2SRConfig", image_size=32, embed_dim=16, depths=[2], num_heads=[2], window_size=8),
        "image-to-image",
        "ORTModelForImageToImage",
        "image",
        "images",
    ),
    "hubert": Animal(
        "HubertForSequenceClassification",
        configured("HubertConfig", **_AUDIO),
        "audio-classification",
        "ORTModelForAudioClassification",
        "audio",
        "sounds",
    ),
    "wav2vec2": Animal(
        "Wav2Vec2ForAudioFrameClassification",
        configured("Wav2Vec2Config", **_AUDIO),
        "audio-frame-classification",
        "ORTModelForAudioFrameClassification",
        "audio",
        "sounds",
    ),
    "unispeech-sat": Animal(
        "UniSpeechSatForXVector",
        configured("UniSpeechSatConfig", **_AUDIO),
        "audio-xvector",
        "ORTModelForAudioXVector",
        "audio",
        "sounds",
    ),
    "wavlm": Animal(  # attention of torch.nn.functional, on the weights of modules that are not called
        "WavLMForSequenceClassification",
        configured("WavLMConfig", **_AUDIO),
        "audio-classification",
        "ORTModelForAudioClassification",
        "audio",
        "sounds",
    ),
    "data2vec-audio": Animal(
        "Data2VecAudioForCTC",
        configured("Data2VecAudioConfig", **{**_AUDIO, "vocab_size": 13, "conv_pos_kernel_size": 3}),
        "automatic-speech-recognition",
        "ORTModelForCTC",
        "audio",
        "sounds",
    ),
    "gpt2": Animal(
        "GPT2LMHeadModel",
        configured("GPT2Config", vocab_size=40, n_positions=64, n_embd=32, n_layer=2, n_head=4, bos_token_id=1),
        "text-generation-with-past",
        "ORTModelForCausalLM",
        preprocessor="words",
    ),
    "llama": Animal(
        "LlamaForCausalLM",
        configured("LlamaConfig", **_DECODER, num_key_value_heads=2),
        "text-generation-with-past",
        "ORTModelForCausalLM",
        preprocessor="words",
    ),
    "qwen2": Animal(
        "Qwen2ForCausalLM",
        configured("Qwen2Config", **_DECODER, num_key_value_heads=2, tie_word_embeddings=True),
        "text-generation-with-past",
        "ORTModelForCausalLM",
        preprocessor="words",
    ),
    "qwen3_moe": Animal(
        "Qwen3MoeForCausalLM",
        configured(
            "Qwen3MoeConfig",
            **_DECODER,
            num_key_value_heads=2,
            head_dim=8,
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=16,
        ),
        "text-generation-with-past",
        "ORTModelForCausalLM",
        preprocessor="words",
    ),
    "t5": Animal(
        "T5ForConditionalGeneration",
        configured(
            "T5Config",
            vocab_size=40,
            d_model=32,
            d_kv=8,
            d_ff=128,
            num_layers=2,
            num_heads=4,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=1,
        ),
        "text2text-generation-with-past",
        "ORTModelForSeq2SeqLM",
        preprocessor="words",
    ),
    "bart": Animal(
        "BartForConditionalGeneration",
        configured(
            "BartConfig",
            vocab_size=40,
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            max_position_embeddings=64,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=2,
            forced_eos_token_id=None,
        ),
        "text2text-generation-with-past",
        "ORTModelForSeq2SeqLM",
        preprocessor="words",
    ),
    "whisper": Animal(
        "WhisperForConditionalGeneration",
        configured(
            "WhisperConfig",
            vocab_size=40,
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            num_mel_bins=16,
            max_source_positions=1500,
            max_target_positions=64,
            pad_token_id=27,
            bos_token_id=29,
            eos_token_id=28,
            decoder_start_token_id=29,
            suppress_tokens=None,
            begin_suppress_tokens=None,
        ),
        "automatic-speech-recognition-with-past",
        "ORTModelForSpeechSeq2Seq",
        "audio+text",
        "speech",
    ),
    "trocr": Animal(
        "VisionEncoderDecoderModel",
        _trocr_config,
        "image-to-text-with-past",
        "ORTModelForVision2Seq",
        "image",
        "clip",
    ),
    "pix2struct": Animal(
        "Pix2StructForConditionalGeneration",
        _pix2struct_config,
        "image-to-text-with-past",
        "ORTModelForPix2Struct",
        "patches",
        "pix2struct",
    ),
}

_PART = {"layers": 1, "attention_heads": 2, "ffn_dim": 64}
_BART = {
    "vocab_size": 20_000,  # Optimum draws tokens by chance, and one more `eos` would be refused
    "d_model": 32,
    **{f"{part}_{name}": size for part in ("encoder", "decoder") for name, size in _PART.items()},
}
DEMANDING: dict[str, Animal] = {
    "mbart": Animal(
        "MBartForSequenceClassification",
        configured("MBartConfig", **_BART),
        "text-classification",
        "ORTModelForSequenceClassification",
    ),
    "moonshine": Animal(
        "MoonshineForConditionalGeneration",
        configured(
            "MoonshineConfig",
            vocab_size=64,
            hidden_size=32,
            intermediate_size=64,
            encoder_num_hidden_layers=1,
            decoder_num_hidden_layers=1,
            encoder_num_attention_heads=2,
            decoder_num_attention_heads=2,
        ),
        "automatic-speech-recognition-with-past",
        "ORTModelForSpeechSeq2Seq",
        preprocessor="sounds",
    ),
    "visual_bert": Animal(
        "VisualBertModel",
        configured("VisualBertConfig", visual_embedding_dim=24, **_BERT),
        "feature-extraction",
        "ORTModelForFeatureExtraction",
    ),
    "markuplm": Animal(
        "MarkupLMModel",
        configured("MarkupLMConfig", max_depth=10, **_BERT),
        "feature-extraction",
        "ORTModelForFeatureExtraction",
    ),
}
"""Models that take no inputs but those that Optimum makes for them: a class needs `eos` in each row, a mask belongs to
a waveform, features have a size of their own."""
