"""The behaviour of transformers' tokenizer classes in addition to the `tokenizer.json` of a model.

A class defines special tokens, the padding side and the input names, and writes settings of `tokenizer_config.json`
into the tokenizer. The table contains the fast classes of transformers 4.57 that do only this; a test checks it
against the installed classes. Tokenizers of other classes are rejected, because they can behave in any way.

`wrong_setting` checks the types of the settings in `tokenizer_config.json` that this package uses. With other types
transformers fails or misreads the setting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

__all__ = [
    "CLASSES",
    "CLASS_OF_MODEL_TYPE",
    "LONGEST",
    "SPECIAL_TOKENS",
    "Rule",
    "TokenizerClass",
    "base_name",
    "wrong_setting",
]


class Rule(Enum):
    """The settings that a class writes into its tokenizer.

    Attributes:
        NONE: None.
        NORMALIZER: `do_lower_case`, `strip_accents`, `tokenize_chinese_chars` into the normalizer.
        OFFSETS: `add_prefix_space` and `trim_offsets` into the post-processor.
        TEMPLATE: `add_bos_token` and `add_eos_token` as a new post-processor.
    """

    NONE = "none"
    NORMALIZER = "normalizer"
    OFFSETS = "offsets"
    TEMPLATE = "template"


_SPECIAL: Final[Mapping[str, Mapping[str, str]]] = {
    "bert": {
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    },
    "roberta": {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "cls_token": "<s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
    },
    "gpt2": dict.fromkeys(("unk_token", "bos_token", "eos_token"), "<|endoftext|>"),
    "llama": {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
    "t5": {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
}
_ALBERT: Final = {
    **_SPECIAL["bert"],
    "bos_token": "[CLS]",
    "eos_token": "[SEP]",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
}
_XLNET: Final = {**_SPECIAL["roberta"], "sep_token": "<sep>", "cls_token": "<cls>"}


@dataclass(frozen=True)
class TokenizerClass:
    """A fast tokenizer class.

    Attributes:
        special: Its special tokens, by their names in `tokenizer_config.json`.
        rule: The settings that it writes into its tokenizer.
        types: Whether it returns `token_type_ids`.
        masks: Whether it returns `attention_mask`.
        prefix_space: Default of `add_prefix_space`.
        wide_mask: Whether its mask token includes the space before it.
        adds_bos: Default of `add_bos_token`; the one of `add_eos_token` is False.
        model_types: The `model_type` values for which AutoTokenizer uses it.
    """

    special: Mapping[str, str]
    rule: Rule = Rule.NONE
    types: bool = False
    masks: bool = True
    padding_side: str = "right"
    prefix_space: bool = False
    wide_mask: bool = False
    adds_bos: bool = False
    model_types: tuple[str, ...] = ()


def _like_bert(*model_types: str, types: bool = True, **special: str) -> TokenizerClass:
    return TokenizerClass({**_SPECIAL["bert"], **special}, Rule.NORMALIZER, types, model_types=model_types)


def _like_roberta(*model_types: str) -> TokenizerClass:
    return TokenizerClass(_SPECIAL["roberta"], Rule.OFFSETS, wide_mask=True, model_types=model_types)


def _like_gpt2(*model_types: str, **special: str) -> TokenizerClass:
    return TokenizerClass({**_SPECIAL["gpt2"], **special}, model_types=model_types)


def _like_llama(*model_types: str, side: str = "left", bos: bool = True, **special: str) -> TokenizerClass:
    return TokenizerClass(
        {**_SPECIAL["llama"], **special}, Rule.TEMPLATE, padding_side=side, adds_bos=bos, model_types=model_types
    )


CLASSES: Final[Mapping[str, TokenizerClass]] = {
    "PreTrained": TokenizerClass(
        {}, types=True, model_types=("falcon", "glm", "modernbert", "nemotron", "gpt_oss", "smollm3")
    ),
    "TokenizersBackend": TokenizerClass({}, types=True),
    "Albert": TokenizerClass(_ALBERT, types=True, wide_mask=True, model_types=("albert", "nystromformer", "yoso")),
    "Barthez": TokenizerClass(_SPECIAL["roberta"], wide_mask=True),
    "Bart": _like_roberta("bart"),
    "Bert": _like_bert(
        "bert", "align", "blip", "bros", "ernie", "git", "megatron-bert", "nezha", "qdqbert", "vilt", "visual_bert"
    ),
    "BigBird": TokenizerClass(
        {**_SPECIAL["roberta"], "sep_token": "[SEP]", "mask_token": "[MASK]", "cls_token": "[CLS]"},
        wide_mask=True,
        model_types=("big_bird",),
    ),
    "Blenderbot": _like_roberta("blenderbot"),
    "Camembert": TokenizerClass(_SPECIAL["roberta"], wide_mask=True, model_types=("camembert",)),
    "CodeGen": _like_gpt2("codegen", "phi"),
    "ConvBert": _like_bert("convbert"),
    "DPRQuestionEncoder": _like_bert("dpr"),
    "DebertaV2": TokenizerClass(
        {**_SPECIAL["bert"], "bos_token": "[CLS]", "eos_token": "[SEP]"},
        types=True,
        model_types=("deberta-v2",),
    ),
    "Deberta": TokenizerClass(
        {**_SPECIAL["bert"], "bos_token": "[CLS]", "eos_token": "[SEP]"},
        types=True,
        model_types=("deberta",),
    ),
    "DistilBert": _like_bert("distilbert", types=False),
    "Electra": _like_bert("electra"),
    "FNet": TokenizerClass(
        {**_SPECIAL["bert"], "unk_token": "<unk>", "pad_token": "<pad>"},
        types=True,
        masks=False,
        wide_mask=True,
        model_types=("fnet",),
    ),
    "GPT2": _like_gpt2("gpt2", "gpt_bigcode", "gptj", "gpt_neo", "opt", "starcoder2"),
    "GPTNeoX": _like_llama(
        *("gpt_neox", "mamba", "mpt", "olmo", "stablelm"),
        side="right",
        bos=False,
        **dict.fromkeys(("unk_token", "bos_token", "eos_token"), "<|endoftext|>"),
    ),
    "Gemma": _like_llama("gemma", "gemma2", "gemma3_text", bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"),
    "Herbert": TokenizerClass(
        {name: text for name, text in _SPECIAL["roberta"].items() if name not in ("bos_token", "eos_token")},
        types=True,
        model_types=("herbert",),
    ),
    "LED": _like_roberta("led"),
    "Llama": _like_llama("llama", "mistral", "mixtral", "persimmon", "phi3", "jamba", "zamba"),
    "Longformer": _like_roberta("longformer"),
    "Lxmert": _like_bert("lxmert"),
    "MPNet": TokenizerClass(
        {**_SPECIAL["roberta"], "unk_token": "[UNK]"}, Rule.NORMALIZER, wide_mask=True, model_types=("mpnet",)
    ),
    "MT5": TokenizerClass(_SPECIAL["t5"], model_types=("mt5",)),
    "MobileBert": _like_bert("mobilebert"),
    "Mvp": _like_roberta("mvp"),
    "OpenAIGPT": TokenizerClass({"unk_token": "<unk>"}, model_types=("openai-gpt",)),
    "Pegasus": TokenizerClass({**_SPECIAL["t5"], "mask_token": "<mask_2>"}, model_types=("pegasus", "pegasus_x")),
    "Qwen2": TokenizerClass(
        dict.fromkeys(("unk_token", "eos_token", "pad_token"), "<|endoftext|>"),
        model_types=("qwen2", "qwen2_moe", "qwen3", "qwen3_moe"),
    ),
    "Reformer": TokenizerClass({"eos_token": "</s>", "unk_token": "<unk>"}, model_types=("reformer",)),
    "RemBert": TokenizerClass(_ALBERT, types=True, wide_mask=True, model_types=("rembert",)),
    "RetriBert": _like_bert("retribert", types=False),
    "Roberta": _like_roberta("roberta", "mra", "roberta-prelayernorm", "ibert", "mega", "data2vec-text"),
    "SqueezeBert": _like_bert("squeezebert"),
    "T5": TokenizerClass(_SPECIAL["t5"], model_types=("t5", "longt5", "switch_transformers", "umt5", "pix2struct")),
    "XGLM": TokenizerClass(
        {name: text for name, text in _SPECIAL["roberta"].items() if name != "mask_token"}, model_types=("xglm",)
    ),
    "XLMRoberta": TokenizerClass(
        _SPECIAL["roberta"], wide_mask=True, model_types=("xlm-roberta", "xlm-roberta-xl", "xmod")
    ),
    "XLNet": TokenizerClass(_XLNET, types=True, padding_side="left", wide_mask=True, model_types=("xlnet",)),
}
"""The classes, by name without `TokenizerFast`."""

CLASS_OF_MODEL_TYPE: Final[Mapping[str, str]] = {
    model_type: name for name, one in CLASSES.items() for model_type in one.model_types
}


def base_name(class_name: str) -> str:
    """Return the name of a class without `Fast` and `Tokenizer`, as in `CLASSES`."""
    return class_name.removesuffix("Fast").removesuffix("Tokenizer")


LONGEST: Final = 10**20
"""Tokens. For transformers, larger values mean no limit."""
SPECIAL_TOKENS: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FLAGS: Final = ("lstrip", "rstrip", "normalized", "single_word", "special")


def _is_token(value: Any) -> bool:
    """Whether a value is a token: a text, or an object with text and flags."""
    if isinstance(value, dict):
        return isinstance(value.get("content"), str) and all(isinstance(value.get(one, True), bool) for one in _FLAGS)
    return isinstance(value, str)


def _are_added(value: Any) -> bool:
    return isinstance(value, dict) and all(
        key.isdecimal() and len(key) < 10 and isinstance(token, dict) and _is_token(token)
        for key, token in value.items()
    )


def _is_length(value: Any) -> bool:
    return value >= 0 if isinstance(value, int) else isinstance(value, float) and value >= LONGEST


_CHECKS: Final[Mapping[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(SPECIAL_TOKENS, _is_token),
    **dict.fromkeys(
        (
            *("add_bos_token", "add_eos_token", "add_prefix_space", "clean_up_tokenization_spaces", "do_lower_case"),
            *("from_slow", "strip_accents", "tokenize_chinese_chars", "trim_offsets"),
        ),
        lambda value: isinstance(value, bool),
    ),
    **dict.fromkeys(("padding_side", "truncation_side"), lambda value: value in ("", "right", "left")),
    "added_tokens_decoder": _are_added,
    "additional_special_tokens": lambda value: isinstance(value, list) and all(map(_is_token, value)),
    "extra_special_tokens": lambda value: (
        isinstance(value, (dict, list)) and all(map(_is_token, value.values() if isinstance(value, dict) else value))
    ),
    "model_input_names": lambda value: isinstance(value, list) and "input_ids" in value,
    "model_max_length": _is_length,
}


def wrong_setting(settings: Mapping[str, Any]) -> str | None:
    """Return the name of the first setting with a value of a wrong type; None without one."""
    for name, is_right in _CHECKS.items():
        is_unset = settings.get(name) is None and name != "added_tokens_decoder"  # transformers fails for this null
        if name in settings and not is_unset and not is_right(settings[name]):
            return name
    return None
