"""Records of a run of a model's code: the tensors that it computes without any input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Read", "Recipe", "Run", "TooManyWeightsError", "UnreadableParameterError"]


class UnreadableParameterError(Exception):
    """The commit has no tensor for a parameter of the model."""


class TooManyWeightsError(UnreadableParameterError):
    """A tensor is computed from more weights than are read for one tensor."""


Read = Callable[[Sequence[str]], Any]
"""Returns a parameter, by its names in the model, as a PyTorch tensor; raises `UnreadableParameterError`."""


@dataclass(frozen=True)
class Recipe:
    """A tensor that the model's code computes.

    Attributes:
        module: The module whose `forward` computes it.
        operator: The last operator, by PyTorch's name.
        size: Number of elements.
        parameters: Names of the parameters that it is computed from; empty for a constant.
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
        recipes: The tensors computed from parameters and constants.
        order: The names of each parameter, in the order of use.
        failure: Why it ended early; None if it did not.
    """

    recipes: tuple[Recipe, ...] = ()
    order: tuple[tuple[str, ...], ...] = ()
    failure: str | None = None
