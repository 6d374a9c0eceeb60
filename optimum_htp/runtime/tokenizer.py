"""Tokenizes with the `tokenizers` library only, as transformers' fast tokenizers do."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from optimum_htp.errors import ArgumentError, OptimumHTPError, PreprocessorLoadError
from optimum_htp.runtime.rejections import check_number

if TYPE_CHECKING:
    import tokenizers
    from numpy.typing import NDArray

__all__ = ["Text", "Tokenizer", "Truncation", "failures_as"]

Truncation = Literal["longest_first", "only_first", "only_second"]
Text = str | tuple[str, str]

# As `PreTrainedTokenizerBase.clean_up_tokenization` of transformers.
_CLEANED: Final = (
    *((spaced, spaced[1:]) for spaced in (" .", " ?", " !", " ,")),
    (" ' ", "'"),
    *((spaced, spaced[1:]) for spaced in (" n't", " 'm", " 's", " 've", " 're")),
)


@contextmanager
def failures_as(error: type[OptimumHTPError], what: str, advice: str = "") -> Iterator[None]:
    """Raise `error` where the `tokenizers` library fails in this block.

    It raises plain Exception. For a panic of its Rust code, pyo3 raises a BaseException that cannot be imported.
    """
    try:
        yield
    except BaseException as failure:
        if not isinstance(failure, Exception) and type(failure).__name__ != "PanicException":
            raise
        raise error(f"{what}: {failure}.{advice}") from failure


@dataclass(frozen=True)
class Tokenizer:
    """The tokenizer of a model. Calls from several threads run one after the other.

    Attributes:
        backend: The tokenizer of `tokenizers`.
        special: The existing special tokens, by their names (`pad_token`).
        ids: Their ids, by the same names.
        input_names: The model inputs that it returns.
        longest: Token limit of the model; None for no limit.
        cleans_up: Whether decoded texts are cleaned up.
        chat_template: The chat templates, by name; `default` is the usual one.
        pad_type: The token type of padding.
        lock: Held during tokenization, because the truncation is a state of `backend`.
    """

    backend: tokenizers.Tokenizer
    special: Mapping[str, str]
    ids: Mapping[str, int]
    input_names: tuple[str, ...]
    padding_side: Literal["right", "left"]
    truncation_side: Literal["right", "left"]
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
        """Return the encodings of texts or of pairs of texts, without padding.

        Args:
            texts: The texts.
            truncation: Which text of a pair is truncated; None for none. The rest is in `Encoding.overflowing`.
            max_length: Token limit; None for the limit of the model.
            stride: Number of tokens that consecutive parts of a truncated text have in common.
            add_special_tokens: Whether special tokens are added.

        Raises:
            ArgumentError: A text is not a valid string, or a number is out of range.
        """
        for text in texts:
            for part in text if isinstance(text, tuple) else (text,):
                _check_text(part)
        check_number("max_length", max_length, 0)
        check_number("stride", stride, 0)
        limit = max_length if max_length is not None else self.longest
        with self.lock:
            if truncation is None or limit is None:
                return self._encoded(texts, None, add_special_tokens)
            wanted = {"max_length": limit, "stride": stride, "strategy": truncation, "direction": self.truncation_side}
            room = self._room(texts, limit, truncation, add_special_tokens) if stride else limit
            if stride and stride >= room:  # `tokenizers` panics if it has to truncate
                whole = self._encoded(texts, None, add_special_tokens)
                if all(len(one) <= limit for one in whole):
                    return whole
                raise ArgumentError(
                    f"stride={stride} is too large: only {max(room, 0)} of {limit} tokens remain for each part of the "
                    "text. Use a smaller stride or a larger limit."
                )
            return self._encoded(texts, wanted, add_special_tokens)

    def _encoded(
        self, texts: Sequence[Text], truncation: Mapping[str, Any] | None, add_special_tokens: bool
    ) -> list[tokenizers.Encoding]:
        if self.backend.truncation != truncation:
            if truncation is None:
                self.backend.no_truncation()
            else:
                self.backend.enable_truncation(**truncation)
        with failures_as(ArgumentError, "The text cannot be tokenized"):
            found: list[tokenizers.Encoding] = self.backend.encode_batch(
                list(texts), add_special_tokens=add_special_tokens
            )
        return found

    def _room(self, texts: Sequence[Text], limit: int, truncation: Truncation, add_special_tokens: bool) -> int:
        """Return the smallest number of tokens that a part of a truncated text can have."""
        cut = 1 if truncation == "only_second" else 0
        kept = [text[1 - cut] for text in texts if isinstance(text, tuple)]
        used = max((len(one) for one in self._encoded(kept, None, False)), default=0)
        added = self.backend.num_special_tokens_to_add(bool(kept)) if add_special_tokens else 0
        return limit - added - used

    def arrays(self, encodings: Sequence[tokenizers.Encoding]) -> dict[str, NDArray[np.int64]]:
        """Return the model inputs of encodings, padded to the longest: integers of shape (encoding, token).

        Raises:
            PreprocessorLoadError: The encodings differ in length, and the tokenizer has no padding token.
        """
        length = max((len(one) for one in encodings), default=0)
        padded = any(len(one) < length for one in encodings)
        if padded and "pad_token" not in self.ids:
            raise PreprocessorLoadError(
                "The tokenizer has no pad_token, so texts of different length cannot be padded. Use batch_size=1."
            )
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
                if self.padding_side == "left":
                    row[length - len(values) :] = values
                else:
                    row[: len(values)] = values
            found[name] = array
        return found

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False, clean_up: bool | None = None) -> str:
        """Return the text of tokens.

        Raises:
            PreprocessorLoadError: The tokenizer's decoder fails.
        """
        with failures_as(PreprocessorLoadError, "The tokens cannot be decoded"):
            text = self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return _cleaned(text) if (self.cleans_up if clean_up is None else clean_up) else text

    def text_of(self, tokens: Sequence[str]) -> str:
        """Return the text of token strings.

        Raises:
            PreprocessorLoadError: The tokenizer's decoder fails.
        """
        decoder = self.backend.decoder
        with failures_as(PreprocessorLoadError, "The tokens cannot be decoded"):
            return decoder.decode(list(tokens)) if decoder is not None else " ".join(tokens)


def _check_text(text: object) -> None:
    """Check that a text is a string without lone UTF-16 surrogates, which `tokenizers` does not support."""
    if not isinstance(text, str):
        raise ArgumentError(f"An input must be a text, not {type(text).__name__}.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ArgumentError(f"A text cannot be encoded as UTF-8: {error}.") from error


def _cleaned(text: str) -> str:
    for spaced, closed in _CLEANED:
        text = text.replace(spaced, closed)
    return text
