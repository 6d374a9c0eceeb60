"""A tiny Donut, which reads the answer to a question from a document: random weights, an answer of five words."""

from __future__ import annotations

from pathlib import Path

from tests.support.animals import Animal, save_words

_PART = {"layers": 1, "attention_heads": 2, "ffn_dim": 32}
_ANSWER_ENDS = "</s_answer>"
_PROMPT = ("<s_docvqa>", "<s_question>", "</s_question>", "<s_answer>", _ANSWER_ENDS)


def donut(folder: Path) -> Path:
    """Save the model with its processor; the last generated token ends the answer."""
    from transformers import (
        AutoTokenizer,
        DonutImageProcessor,
        DonutProcessor,
        DonutSwinConfig,
        GenerationConfig,
        MBartConfig,
        VisionEncoderDecoderConfig,
    )

    encoder = DonutSwinConfig(
        image_size=[64, 32], patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4
    )
    sizes = {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in _PART.items()}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    decoder = MBartConfig(vocab_size=64, d_model=16, max_position_embeddings=300, **sizes, **special)
    decoder.update({"is_decoder": True, "add_cross_attention": True})

    def config() -> VisionEncoderDecoderConfig:
        made = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
        made.update({"decoder_start_token_id": 1, **special})
        return made

    def processor(folder: Path) -> None:
        save_words(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.add_tokens(list(_PROMPT))
        DonutProcessor(DonutImageProcessor(size={"height": 64, "width": 32}), tokenizer).save_pretrained(folder)
        end = tokenizer.convert_tokens_to_ids(_ANSWER_ENDS)
        GenerationConfig(decoder_start_token_id=1, forced_eos_token_id=end, **special).save_pretrained(folder)

    animal = Animal(
        "VisionEncoderDecoderModel", config, "image-to-text-with-past", "ORTModelForVision2Seq", "image", processor
    )
    return animal.save(folder)
