"""Records of a run of a model's code: the tensors that it makes without any input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Read", "Recipe", "Run", "TooManyWeightsError", "UnreadableParameterError"]


class UnreadableParameterError(Exception):
    """The commit has no tensor for a parameter of the model."""


class TooManyWeightsError(UnreadableParameterError):
    """A tensor is made of more weights than are read for one."""


Read = Callable[[Sequence[str]], Any]
"""Returns a parameter, by its names in the model, as a tensor of PyTorch; raises `UnreadableParameterError`."""


@dataclass(frozen=True)
class Recipe:
    """A tensor that the model's code makes.

    Attributes:
        module: In whose `forward`.
        operator: The last of its operators, as PyTorch calls it.
        size: Number of elements.
        parameters: Names of the parameters that it is made of; none for a constant.
    """

    module: str
    operator: str
    size: int
    parameters: tuple[str, ...]
    _compute: Callable[[], Any] = field(repr=False)

    def values(self) -> Any:
        """Compute it, as an array.

        Raises:
            UnreadableParameterError: The commit has no tensor for a parameter, or one of another shape.
        """
        return self._compute().detach().float().numpy()


@dataclass(frozen=True)
class Run:
    """A run of a model's `forward`.

    Attributes:
        recipes: What it made of parameters and constants.
        order: The names of each parameter, in the order in which it computes with them.
        failure: Why it ended early; None where it did not.
    """

    recipes: tuple[Recipe, ...] = ()
    order: tuple[tuple[str, ...], ...] = ()
    failure: str | None = None
