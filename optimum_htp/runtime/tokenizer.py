"""Tokenizing with the `tokenizers` library alone, as transformers' fast tokenizers do."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from optimum_htp.errors import PreprocessorLoadError

if TYPE_CHECKING:
    import tokenizers
    from numpy.typing import NDArray

__all__ = ["Text", "Tokenizer", "Truncation"]

Truncation = Literal["longest_first", "only_first", "only_second"]
Text = str | tuple[str, str]

# As `PreTrainedTokenizerBase.clean_up_tokenization` of transformers.
_CLEAN: Final = (" .", " ?", " !", " ,", " n't", " 'm", " 's", " 've", " 're")
_CLEAN_QUOTE: Final = " ' "


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer of a model. Calls from several threads wait for each other.

    Attributes:
        backend: The tokenizer of `tokenizers`.
        special: The special tokens by their names (`pad_token`), without those that there are not.
        ids: Their ids, by the same names.
        input_names: The inputs that it gives.
        padding_side: `right` or `left`.
        truncation_side: `right` or `left`.
        longest: The most tokens that the model takes; None for no limit.
        cleans_up: Whether a decoded text is cleaned up.
        chat_template: The template of chats, by name; `default` is the usual one.
        pad_type: The token type of padding.
    """

    backend: tokenizers.Tokenizer
    special: Mapping[str, str]
    ids: Mapping[str, int]
    input_names: tuple[str, ...]
    padding_side: Literal["right", "left"]
    truncation_side: str
    longest: int | None
    cleans_up: bool
    chat_template: Mapping[str, str]
    pad_type: int
    lock: threading.Lock

    def encode(
        self,
        texts: Sequence[Text],
        *,
        truncation: Truncation | None = None,
        max_length: int | None = None,
        stride: int = 0,
        add_special_tokens: bool = True,
    ) -> list[tokenizers.Encoding]:
        """Return the encodings of texts, or of pairs of texts, not padded.

        Args:
            texts: The texts.
            truncation: Which text of a pair is cut; None to cut none. What is cut off is `overflowing`.
            max_length: The most tokens; None for those that the model takes.
            stride: How many tokens what is cut off repeats.
            add_special_tokens: Whether special tokens are added.
        """
        limit = max_length if max_length is not None else self.longest
        with self.lock:
            if truncation is None or limit is None:
                if self.backend.truncation is not None:
                    self.backend.no_truncation()
            else:
                wanted = {
                    "max_length": limit,
                    "stride": stride,
                    "strategy": truncation,
                    "direction": self.truncation_side,
                }
                if self.backend.truncation != wanted:
                    self.backend.enable_truncation(**wanted)
            found: list[tokenizers.Encoding] = self.backend.encode_batch(
                list(texts), add_special_tokens=add_special_tokens
            )
            return found

    def arrays(
        self, encodings: Sequence[tokenizers.Encoding], side: str | None = None
    ) -> dict[str, NDArray[np.int64]]:
        """Return the model's inputs of encodings, padded to the longest: integers of shape (encoding, token).

        Raises:
            PreprocessorLoadError: They differ in length, and there is no padding token.
        """
        length = max((len(one) for one in encodings), default=0)
        padded = any(len(one) < length for one in encodings)
        if padded and "pad_token" not in self.ids:
            raise PreprocessorLoadError("The tokenizer has no pad_token: give one text at a time.")
        columns = {
            "input_ids": ([one.ids for one in encodings], self.ids.get("pad_token", 0)),
            "attention_mask": ([one.attention_mask for one in encodings], 0),
            "token_type_ids": ([one.type_ids for one in encodings], self.pad_type),
        }
        found = {}
        for name in self.input_names:
            rows, filler = columns[name]
            array = np.full((len(rows), length), filler, dtype=np.int64)
            for row, values in zip(array, rows, strict=True):
                if (side or self.padding_side) == "left":
                    row[length - len(values) :] = values
                else:
                    row[: len(values)] = values
            found[name] = array
        return found

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False, clean_up: bool | None = None) -> str:
        """Return the text of tokens."""
        text = self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return _cleaned(text) if (self.cleans_up if clean_up is None else clean_up) else text

    def text_of(self, tokens: Sequence[str]) -> str:
        """Return the text that tokens make up."""
        decoder = self.backend.decoder
        return decoder.decode(list(tokens)) if decoder is not None else " ".join(tokens)


def _cleaned(text: str) -> str:
    for spaced in _CLEAN[:4]:
        text = text.replace(spaced, spaced[1:])
    text = text.replace(_CLEAN_QUOTE, "'")
    for spaced in _CLEAN[4:]:
        text = text.replace(spaced, spaced[1:])
    return text
