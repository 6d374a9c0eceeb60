"""Rejects a `tokenizer.json` with which a short text would take the memory or time of a very long one."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.parsing import parse_json

if TYPE_CHECKING:
    import tokenizers

__all__ = ["check_charsmap", "check_growth"]

_LARGEST_GROWTH: Final = 1000  # characters or tokens for each; usual tokenizers have less than 10
_LONGEST_WORD: Final = 1000  # characters; WordPiece needs quadratic time for a word, and 100 are usual
_CHARSMAP: Final = re.compile(rb'"precompiled_charsmap"\s*:\s*"([A-Za-z0-9+/]{8})?([A-Za-z0-9+/=]*)"')


def check_charsmap(content: bytes) -> None:
    """Check the size of the table in sentencepiece's normalizer. `tokenizers` allocates the size that it states.

    The first four bytes are the size of the trie in bytes (`NormalizationRule` in sentencepiece's `normalizer.cc`).

    Raises:
        ValueError: The table is not complete.
    """
    for begin, rest in _CHARSMAP.findall(content):
        size = int.from_bytes(base64.b64decode(begin)[:4], "little")
        if size > 3 * (len(begin) + len(rest)) // 4:
            raise ValueError("its precompiled_charsmap is damaged")


def check_growth(backend: tokenizers.Tokenizer) -> None:
    """Check the lengths of the texts and tokens that a tokenizer adds.

    Raises:
        ValueError: A text can become more than 1000 times as long, or a word can have more than 1000 characters.
    """
    for component in (backend.normalizer, backend.post_processor, backend.decoder):
        if component is not None and _growth(parse_json(component.__getstate__())) > _LARGEST_GROWTH:
            raise ValueError(f"a text would become more than {_LARGEST_GROWTH} times as long")
    longest = getattr(backend.model, "max_input_chars_per_word", 0)
    if longest > _LONGEST_WORD:
        raise ValueError(f"max_input_chars_per_word is {longest}; the limit is {_LONGEST_WORD}")


def _growth(state: Mapping[str, Any]) -> int:
    """Return the largest number of characters or tokens that a component makes of one."""
    kind = state.get("type")
    if kind == "Sequence":
        growth = 1
        for inner in next(state[name] for name in ("normalizers", "processors", "decoders") if name in state):
            growth = min(growth * _growth(inner), _LARGEST_GROWTH + 1)
        return growth
    if kind == "Replace":
        return max(1, len(state["content"]))
    if kind == "Prepend":
        return 1 + len(state["prepend"])
    if kind == "TemplateProcessing":
        return max(1, len(state["single"]), len(state["pair"]))
    return 1
