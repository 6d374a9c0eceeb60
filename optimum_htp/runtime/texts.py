"""Runs of a model on texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from optimum_htp.errors import ArgumentError, InferenceError, WrongTaskError
from optimum_htp.runtime.rejections import check_number
from optimum_htp.runtime.sessions import output_of

if TYPE_CHECKING:
    import tokenizers
    from numpy.typing import NDArray

    from optimum_htp.runtime.model import Model
    from optimum_htp.runtime.sessions import Arrays, Part
    from optimum_htp.runtime.tokenizer import Truncation

__all__ = ["Run", "batches", "feeds", "listed", "results", "runs", "truncation_of"]

_STRATEGIES: Final = ("longest_first", "only_first", "only_second")


@dataclass(frozen=True)
class Run:
    """The outputs of a model for one encoding.

    Attributes:
        outputs: The outputs without batch axis, with padding.
        offset: Index of the first token: the length of the padding on the left.
    """

    encoding: tokenizers.Encoding
    outputs: Arrays
    path: Path
    offset: int = 0

    def classes(self, name: str) -> NDArray[Any]:
        """Return an output of the whole text, of shape (class,)."""
        return output_of(self.outputs, name, (None,), self.path)

    def tokens(self, name: str, axes: int = 2) -> NDArray[Any]:
        """Return an output per token, of shape (token, ...) with `axes` axes, without padding."""
        length = self.offset + len(self.encoding) if self.offset else None
        found = output_of(self.outputs, name, (length, *(None,) * (axes - 1)), self.path)
        if len(found) < len(self.encoding):
            raise WrongTaskError(
                f"{self.path} returns {name} for {len(found)} tokens instead of {len(self.encoding)}."
            )
        return found[self.offset : self.offset + len(self.encoding)]


def truncation_of(value: Any, max_length: int | None = None) -> Truncation | None:
    """Return the strategy of `truncation=`. As in transformers, `max_length` alone truncates too."""
    if value is True or (value is None and max_length is not None):
        return "longest_first"
    if value in (None, False, "do_not_truncate"):
        return None
    if value not in _STRATEGIES:
        raise ArgumentError(f"truncation={value!r} is unknown; use True, False or one of {', '.join(_STRATEGIES)}.")
    chosen: Truncation = value
    return chosen


def listed(inputs: Any) -> tuple[list[Any], bool]:
    """Return inputs as a list, and whether they were a list."""
    if isinstance(inputs, (list, tuple)):
        return list(inputs), True
    return [inputs], False


def results(found: list[Any], is_list: bool) -> Any:
    """Return all results if the input was a list, else the only one."""
    return found if is_list else found[0]


def batches(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    """Yield the items in lists of at most `size`."""
    check_number("batch_size", size, 1)
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch


def feeds(part: Part, arrays: Arrays) -> dict[str, NDArray[Any]]:
    """Return the inputs of a model. Adds the default masks and token types, as Optimum does."""
    given = {name: array for name, array in arrays.items() if name in part.inputs}
    for name, value in (("attention_mask", 1), ("token_type_ids", 0)):
        if name in part.inputs and name not in given:
            given[name] = np.full_like(arrays["input_ids"], value)
    return given


def runs(model: Model, encodings: Sequence[tokenizers.Encoding], batch_size: int) -> Iterator[Run]:
    """Yield the outputs of a model for each encoding."""
    tokenizer, part = model.tokenizer, model.part
    for batch in batches(encodings, batch_size):
        arrays = tokenizer.arrays(batch)
        try:
            outputs = part.run(feeds(part, arrays))
        except (ArgumentError, InferenceError) as error:
            longest, limit = max(map(len, batch)), _limit(model)
            if limit is not None and longest > limit:
                raise ArgumentError(
                    f"A text has {longest} tokens, but {part.path} takes at most {limit}. Shorten the text, or use "
                    f"truncation=True, max_length={limit}."
                ) from error
            raise
        width = arrays["input_ids"].shape[1]
        for index, encoding in enumerate(batch):
            offset = width - len(encoding) if tokenizer.padding_side == "left" else 0
            rows = {name: array[index] for name, array in outputs.items() if array.shape[:1] == (len(batch),)}
            yield Run(encoding, {name: np.asarray(row) for name, row in rows.items()}, part.path, offset)


def _limit(model: Model) -> int | None:
    """Return the token limit of a model according to its tokenizer and config; None if unknown."""
    positions = model.config.get("max_position_embeddings")
    known = [one for one in (model.tokenizer.longest, positions) if isinstance(one, int)]
    return min(known, default=None)
