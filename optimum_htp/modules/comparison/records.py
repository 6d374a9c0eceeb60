"""What a comparison finds, module by module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from optimum_htp.modules.comparison.measures import Distance

__all__ = ["Comparison", "ModuleComparison", "ValueComparison", "WeightComparison"]


@dataclass(frozen=True)
class WeightComparison:
    """A weight of the first model, and the one of the second that stands in its place.

    Attributes:
        name: In the first.
        other: In the second; None where it is missing there.
        kind: `equal`, `transposed`, `changed`, `cast`, `quantized`, `folded`, `derived` or `missing`.
        difference: The largest of its elements'.
        exceeded: Whether that is more than the tolerances allow.
    """

    name: str
    other: str | None
    kind: str
    difference: float = 0.0
    exceeded: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"name": self.name, "other": self.other, "kind": self.kind, "difference": self.difference}


@dataclass(frozen=True)
class ValueComparison:
    """A value that leaves a module, and its counterpart.

    Attributes:
        name: Of the value in the file.
        distance: Of both.
        folded: The module of PyTorch's whose value it is, where that was folded into this one.
        problem: Why it could not be compared, which counts as beyond the tolerances; None where it was.
    """

    name: str
    distance: Distance
    folded: str | None = None
    problem: str | None = None


@dataclass
class ModuleComparison:
    """A module in both models.

    Attributes:
        name: In the whole model.
        class_name: Its class.
        operators: Operators of its own nodes of which the models have different numbers: those of each.
        weights: Its own weights.
        values: What leaves it; empty where nothing of it could be compared.
        added: By how much more its values differ than those that enter it, as parts of their norms; None for modules
            that hold others.
    """

    name: str
    class_name: str
    operators: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    weights: list[WeightComparison] = field(default_factory=list)
    values: list[ValueComparison] = field(default_factory=list)
    added: float | None = None

    @property
    def worst(self) -> Distance | None:
        """The greatest distance of its values."""
        distances = (value.distance for value in self.values)
        return max(distances, key=lambda distance: (distance.exceeded > 0, distance.norm), default=None)

    @property
    def exceeds(self) -> bool:
        """Whether a value differs by more than the tolerances allow."""
        return any(value.distance.exceeded for value in self.values)

    @property
    def differs(self) -> bool:
        """Whether anything in it does, however little."""
        return bool(
            self.operators
            or any(value.distance.absolute for value in self.values)
            or any(weight.kind not in ("equal", "transposed") for weight in self.weights)
        )

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "name": self.name,
            "class_name": self.class_name,
            "operators": {name: list(counts) for name, counts in self.operators.items()},
            "weights": [weight.as_dict() for weight in self.weights],
            "values": [
                {"name": value.name, "folded": value.folded, "problem": value.problem, **value.distance.as_dict()}
                for value in self.values
            ],
            "exceeds": self.exceeds,
            "added": self.added if self.added is None or self.added != float("inf") else None,
        }


@dataclass(frozen=True)
class Comparison:
    """Two models, compared.

    Attributes:
        one, other: What they are, in words; differences are those of `other`, or of a file from PyTorch's model.
        atol, rtol: The tolerances.
        modules: In order of execution.
    """

    one: str
    other: str
    atol: float
    rtol: float
    modules: tuple[ModuleComparison, ...] = field(repr=False)

    @property
    def first(self) -> ModuleComparison | None:
        """The first module, in order of execution, whose values differ by more than the tolerances allow."""
        return next((module for module in self.modules if module.exceeds), None)

    @property
    def most(self) -> ModuleComparison | None:
        """The innermost module that adds most to the difference; None where no tolerance is exceeded."""
        known = [module for module in self.modules if module.added]
        return max(known, key=lambda module: module.added or 0.0) if known and self.first is not None else None

    @property
    def exceeds(self) -> bool:
        """Whether anything differs by more than the tolerances allow: a value, or a weight."""
        return self.first is not None or any(weight.exceeded for module in self.modules for weight in module.weights)

    @property
    def compared(self) -> int:
        """How many values were compared."""
        return sum(value.problem is None for module in self.modules for value in module.values)

    @property
    def problems(self) -> dict[str, str]:
        """The values that could not be compared, each with why."""
        found = ((value.name, value.problem) for module in self.modules for value in module.values)
        return {name: problem for name, problem in found if problem is not None}

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        first, most = self.first, self.most
        return {
            "one": self.one,
            "other": self.other,
            "atol": self.atol,
            "rtol": self.rtol,
            "exceeds": self.exceeds,
            "first_exceeded": None if first is None else first.name,
            "most_added": None if most is None else most.name,
            "values_compared": self.compared,
            "problems": self.problems,
            "modules": [module.as_dict() for module in self.modules],
        }
