"""Texts as a model's inputs, and what it gives for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from optimum_htp.errors import ArgumentError, InferenceError, WrongTaskError
from optimum_htp.runtime.numbers import check_number
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
    """What a model gave for one encoding.

    Attributes:
        encoding: The encoding.
        outputs: The outputs without their batch axis, padding included.
        path: The file.
        offset: Where the tokens begin: behind padding on the left.
    """

    encoding: tokenizers.Encoding
    outputs: Arrays
    path: Path
    offset: int = 0

    def classes(self, name: str) -> NDArray[Any]:
        """Return an output of the whole text, of shape (class,).

        Raises:
            WrongTaskError: There is no such output, or it has another shape.
        """
        return output_of(self.outputs, name, (None,), self.path)

    def tokens(self, name: str, axes: int = 2) -> NDArray[Any]:
        """Return an output of tokens, of shape (token, ...) with so many axes, without padding.

        Raises:
            WrongTaskError: There is no such output, or it has another shape.
        """
        length = self.offset + len(self.encoding) if self.offset else None
        found = output_of(self.outputs, name, (length, *(None,) * (axes - 1)), self.path)
        if len(found) < len(self.encoding):
            raise WrongTaskError(f"{self.path} gives {name} of {len(found)} tokens for {len(self.encoding)}.")
        return found[self.offset : self.offset + len(self.encoding)]


def truncation_of(value: Any, max_length: int | None = None) -> Truncation | None:
    """Return the strategy that `truncation=` means; a length alone asks for truncation too, as in transformers.

    Raises:
        ArgumentError: There is no such strategy.
    """
    if value is None and max_length is not None:
        return "longest_first"
    if value is None or value is False or value == "do_not_truncate":
        return None
    if value is True:
        return "longest_first"
    if value not in _STRATEGIES:
        raise ArgumentError(f"truncation={value!r} is not known: give True, False or one of {', '.join(_STRATEGIES)}.")
    chosen: Truncation = value
    return chosen


def listed(inputs: Any) -> tuple[list[Any], bool]:
    """Return inputs as a list, and whether they were one."""
    if isinstance(inputs, (list, tuple)):
        return list(inputs), True
    return [inputs], False


def results(found: list[Any], is_list: bool) -> Any:
    """Return results as inputs came: a list for a list."""
    return found if is_list else found[0]


def batches(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    """Yield the items in lists of so many.

    Raises:
        ArgumentError: That is not a number of items.
    """
    check_number("batch_size", size, 1)
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch


def feeds(part: Part, arrays: Arrays) -> dict[str, NDArray[Any]]:
    """Return a model's inputs: those that it has, with those filled in that Optimum fills in."""
    given = {name: array for name, array in arrays.items() if name in part.inputs}
    ids = arrays["input_ids"]
    if "attention_mask" in part.inputs and "attention_mask" not in given:
        given["attention_mask"] = np.ones_like(ids)
    if "token_type_ids" in part.inputs and "token_type_ids" not in given:
        given["token_type_ids"] = np.zeros_like(ids)
    return given


def runs(model: Model, encodings: Sequence[tokenizers.Encoding], batch_size: int) -> Iterator[Run]:
    """Yield what a model gives for encodings.

    Raises:
        ArgumentError: A text has more tokens than the model takes, or there is no such batch size.
        PreprocessorLoadError: Texts of several lengths cannot be padded.
        InferenceError: ONNX Runtime fails.
    """
    tokenizer, part = model.tokenizer, model.part
    for batch in batches(encodings, batch_size):
        arrays = tokenizer.arrays(batch)
        try:
            outputs = part.run(feeds(part, arrays))
        except (ArgumentError, InferenceError) as error:
            longest, limit = max(map(len, batch)), _limit(model)
            if limit is not None and longest > limit:
                raise ArgumentError(
                    f"A text has {longest} tokens, and {part.path} takes {limit}: shorten it, or cut it with "
                    f"truncation=True, max_length={limit}."
                ) from error
            raise
        width = arrays["input_ids"].shape[1]
        for index, encoding in enumerate(batch):
            offset = width - len(encoding) if tokenizer.padding_side == "left" else 0
            rows = {name: array[index] for name, array in outputs.items() if array.shape[:1] == (len(batch),)}
            yield Run(encoding, {name: np.asarray(row) for name, row in rows.items()}, part.path, offset)


def _limit(model: Model) -> int | None:
    """Return the most tokens that a model takes, as far as its tokenizer and its config tell."""
    positions = model.config.get("max_position_embeddings")
    known = [one for one in (model.tokenizer.longest, positions) if isinstance(one, int)]
    return min(known, default=None)
