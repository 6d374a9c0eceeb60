"""The settings of `tokenizer_config.json` that this package uses, and the types of their values.

With other types transformers fails or misreads the setting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

__all__ = ["LONGEST", "SPECIAL_TOKENS", "wrong_setting"]

LONGEST: Final = 10**20
"""Tokens. For transformers, larger values mean no limit."""
SPECIAL_TOKENS: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FLAGS: Final = ("lstrip", "rstrip", "normalized", "single_word", "special")


def _is_flag(value: Any) -> bool:
    return value is None or isinstance(value, bool)


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
    if isinstance(value, int):
        return value >= 0
    return value is None or (isinstance(value, float) and value >= LONGEST)


def _is_side(value: Any) -> bool:
    return value in (None, "", "right", "left") if isinstance(value, str) or value is None else False


_CHECKS: Final[Mapping[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(SPECIAL_TOKENS, lambda value: value is None or _is_token(value)),
    **dict.fromkeys(
        (
            *("add_bos_token", "add_eos_token", "add_prefix_space", "clean_up_tokenization_spaces", "do_lower_case"),
            *("from_slow", "strip_accents", "tokenize_chinese_chars", "trim_offsets"),
        ),
        _is_flag,
    ),
    **dict.fromkeys(("padding_side", "truncation_side"), _is_side),
    "added_tokens_decoder": _are_added,
    "additional_special_tokens": lambda value: (
        value is None or (isinstance(value, list) and all(map(_is_token, value)))
    ),
    "extra_special_tokens": lambda value: (
        value is None or all(map(_is_token, value.values() if isinstance(value, dict) else value))
        if isinstance(value, (dict, list)) or value is None
        else False
    ),
    "model_input_names": lambda value: value is None or (isinstance(value, list) and "input_ids" in value),
    "model_max_length": _is_length,
}


def wrong_setting(settings: Mapping[str, Any]) -> str | None:
    """Return the name of the first setting with a value of a wrong type; None without one."""
    return next(
        (name for name, is_right in _CHECKS.items() if name in settings and not is_right(settings[name])), None
    )
