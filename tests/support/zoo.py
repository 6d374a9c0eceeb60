"""A table of tiny models with seeded random weights: one line an architecture, with the class of Optimum's it is for.

Weights are noisy everywhere, norms and biases included, so that no two parameters are alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.models import _bert_tokenizer, _seeded, _spread_logits, _word_tokenizer

_SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
_DECODER = {**_SMALL, "vocab_size": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


@dataclass(frozen=True)
class Animal:
    """An architecture.

    Attributes:
        model: Class of transformers.
        config: Class of its config, and what it is made with.
        task: Optimum task of the export.
        ort_class: Class of Optimum's that loads it.
        kind: What its inputs are: text, choices, image, image+text, audio, audio+text.
        preprocessor: What is saved beside it.
        max_difference: Between PyTorch's outputs and ONNX Runtime's, absolute.
    """

    model: str
    config: Callable[[], Any]
    task: str
    ort_class: str
    kind: str = "text"
    preprocessor: str = "bert"
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
        _PREPROCESSORS[self.preprocessor](folder)
        return folder


def configured(name: str, **values: Any) -> Callable[[], Any]:
    """Return what makes a config of a class of transformers."""

    def make() -> Any:
        import transformers

        return getattr(transformers, name)(**values)

    return make


def _words(folder: Path) -> None:
    _word_tokenizer(pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>").save_pretrained(folder)


def _images(folder: Path) -> None:
    from transformers import ViTImageProcessor

    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)


def _sounds(folder: Path) -> None:
    from transformers import Wav2Vec2FeatureExtractor

    Wav2Vec2FeatureExtractor().save_pretrained(folder)


def _speech(folder: Path) -> None:
    from transformers import WhisperFeatureExtractor

    WhisperFeatureExtractor(feature_size=16, chunk_length=30, n_fft=400).save_pretrained(folder)
    _words(folder)


def _clip(folder: Path) -> None:
    from transformers import CLIPImageProcessor

    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    _words(folder)


def _pix2struct(folder: Path) -> None:
    from transformers import Pix2StructImageProcessor

    Pix2StructImageProcessor(max_patches=16, patch_size={"height": 4, "width": 4}).save_pretrained(folder)
    _words(folder)


_PREPROCESSORS: dict[str, Callable[[Path], Any]] = {
    "bert": lambda folder: _bert_tokenizer(folder).save_pretrained(folder),
    "words": _words,
    "images": _images,
    "sounds": _sounds,
    "speech": _speech,
    "clip": _clip,
    "pix2struct": _pix2struct,
}

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
BERT = {**_SMALL, "vocab_size": 40}
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
    "bert": Animal("BertForMaskedLM", configured("BertConfig", **BERT), "fill-mask", "ORTModelForMaskedLM"),
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
        configured("DebertaV2Config", **BERT, num_labels=3, relative_attention=True, pos_att_type=["p2c", "c2p"]),
        "token-classification",
        "ORTModelForTokenClassification",
    ),
    "albert": Animal(
        "AlbertModel",
        configured("AlbertConfig", **BERT, embedding_size=16),
        "feature-extraction",
        "ORTModelForFeatureExtraction",
    ),
    "mpnet": Animal("MPNetForMaskedLM", configured("MPNetConfig", **BERT), "fill-mask", "ORTModelForMaskedLM"),
    "electra": Animal(
        "ElectraForMultipleChoice",
        configured("ElectraConfig", **BERT, embedding_size=16),
        "multiple-choice",
        "ORTModelForMultipleChoice",
        "choices",
    ),
    "squeezebert": Animal(  # calls its layers' forward directly
        "SqueezeBertForSequenceClassification",
        configured(
            "SqueezeBertConfig",
            **BERT,
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
            d_ff=64,
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
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
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


def inputs(animal: Animal) -> dict[str, Any]:
    """Return a batch of inputs of a model's kind."""
    import torch

    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 20, (2, 7), generator=generator)
    text = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    images = {"pixel_values": torch.randn(2, 3, 32, 32, generator=generator)}
    return {
        "text": text,
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


def describe(folder: Path) -> str:
    """Return the class that a saved model's config names."""
    return str(json.loads((folder / "config.json").read_text())["architectures"][0])
