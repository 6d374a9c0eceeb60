"""The results of a comparison: the distance of arrays, and records by value, weight and module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

__all__ = [
    "Comparison",
    "Distance",
    "ModuleComparison",
    "ValueComparison",
    "WeightComparison",
    "differences",
    "distance",
    "distance_of_rows",
    "incomparable",
]

_TINY: Final = 1.2e-38  # The smallest normal float32.


@dataclass(frozen=True)
class Distance:
    """The distance of values from expected ones.

    Attributes:
        absolute: The largest difference.
        relative: The largest difference relative to the expected value.
        cosine: Cosine of the angle between both, as vectors; 1 if both are zero.
        norm: Euclidean norm of the difference, relative to that of the expected values.
        exceeded: Number of elements that differ by more than the tolerances, or are a number on one side only.
        elements: Number of elements.
    """

    absolute: float
    relative: float
    cosine: float
    norm: float
    exceeded: int
    elements: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain data. Values that are not numbers are None."""
        return {
            key: value if value == value and abs(value) != float("inf") else None
            for key, value in asdict(self).items()
        }


@dataclass(frozen=True)
class WeightComparison:
    """A weight of the first model, and its counterpart in the second.

    Attributes:
        name: Name in the first model.
        other: Name in the second; None if it is missing.
        kind: `equal`, `transposed`, `changed`, `cast`, `quantized`, `folded`, `derived` or `missing`.
        difference: The largest difference of elements.
        exceeded: Whether it exceeds the tolerances.
    """

    name: str
    other: str | None
    kind: str
    difference: float = 0.0
    exceeded: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {"name": self.name, "other": self.other, "kind": self.kind, "difference": self.difference}


@dataclass(frozen=True)
class ValueComparison:
    """An output value of a module, and its counterpart.

    Attributes:
        name: Name of the value in the file.
        distance: The distance of both.
        folded: The PyTorch module whose value it is, if that module was folded into this one.
        problem: Why it could not be compared, which counts as a difference; None if it was compared.
    """

    name: str
    distance: Distance
    folded: str | None = None
    problem: str | None = None


@dataclass
class ModuleComparison:
    """A module in both models.

    Attributes:
        name: Name in the whole model.
        class_name: Its class.
        operators: Operators of its own nodes whose numbers differ, with both numbers.
        weights: Its own weights.
        values: Its output values; empty if none could be compared.
        added: Increase of the relative difference from its inputs to its outputs; None for modules with submodules.
    """

    name: str
    class_name: str
    operators: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    weights: list[WeightComparison] = field(default_factory=list)
    values: list[ValueComparison] = field(default_factory=list)
    added: float | None = None

    @property
    def worst(self) -> Distance | None:
        """The largest distance of its values."""
        distances = (value.distance for value in self.values)
        return max(distances, key=lambda distance: (distance.exceeded > 0, distance.norm), default=None)

    @property
    def exceeds(self) -> bool:
        """Whether a value exceeds the tolerances."""
        return any(value.distance.exceeded for value in self.values)

    @property
    def differs(self) -> bool:
        """Whether there is any difference."""
        return bool(
            self.operators
            or any(value.distance.absolute for value in self.values)
            or any(weight.kind not in ("equal", "transposed") for weight in self.weights)
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
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
    """The comparison of two models.

    Attributes:
        one, other: Their names for messages. Differences are those of `other`, or of a file from PyTorch's model.
        atol, rtol: The tolerances.
        modules: The modules, in order of execution.
    """

    one: str
    other: str
    atol: float
    rtol: float
    modules: tuple[ModuleComparison, ...] = field(repr=False)

    @property
    def first(self) -> ModuleComparison | None:
        """The first module, in order of execution, whose values exceed the tolerances."""
        return next((module for module in self.modules if module.exceeds), None)

    @property
    def most(self) -> ModuleComparison | None:
        """The innermost module that adds most to the difference; None if no tolerance is exceeded."""
        known = [module for module in self.modules if module.added]
        return max(known, key=lambda module: module.added or 0.0) if known and self.first is not None else None

    @property
    def exceeds(self) -> bool:
        """Whether a value or a weight exceeds the tolerances."""
        return self.first is not None or any(weight.exceeded for module in self.modules for weight in module.weights)

    @property
    def compared(self) -> int:
        """Number of compared values."""
        return sum(value.problem is None for module in self.modules for value in module.values)

    @property
    def problems(self) -> dict[str, str]:
        """The values that could not be compared, with the reason."""
        found = ((value.name, value.problem) for module in self.modules for value in module.values)
        return {name: problem for name, problem in found if problem is not None}

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
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


def incomparable(elements: int) -> Distance:
    """Return the distance of values without a counterpart: all of them exceed any tolerance."""
    count = max(elements, 1)
    return Distance(float("inf"), float("inf"), 0.0, float("inf"), count, count)


def differences(ours: Any, theirs: Any, atol: float, rtol: float) -> tuple[Any, Any, Any]:
    """Return for each element whether it is the same, the difference, and whether it exceeds the tolerances.

    As in numpy's `allclose`, infinities must match exactly, because a relative tolerance of infinity would accept
    everything.
    """
    import numpy as np

    same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    difference = np.where(same, 0.0, np.abs(ours - theirs))
    finite = np.isfinite(ours) & np.isfinite(theirs)
    return same, difference, ~same & ~(finite & (difference <= atol + rtol * np.abs(theirs)))


def distance(ours: Any, theirs: Any, atol: float, rtol: float) -> Distance:
    """Return the distance of `ours` from `theirs`, of the same size, with the tolerances of numpy's `allclose`."""
    import numpy as np

    a, b = (np.asarray(values).reshape(-1).astype(np.float64) for values in (ours, theirs))
    if a.size == 0:
        return Distance(0.0, 0.0, 1.0, 0.0, 0, 0)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        same, difference, exceeded = differences(a, b, atol, rtol)
        relative = np.where(same, 0.0, difference / np.maximum(np.abs(b), _TINY))
        sizes = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
        cosine = float(a @ b) / sizes if sizes else float(not np.any(a) and not np.any(b))
        norm = float(np.linalg.norm(difference)) / max(float(np.linalg.norm(b)), _TINY)
    return Distance(
        float(np.nan_to_num(difference, nan=np.inf, posinf=np.inf).max()),
        float(np.nan_to_num(relative, nan=np.inf, posinf=np.inf).max()),
        cosine,
        float(np.nan_to_num(norm, nan=np.inf, posinf=np.inf)),
        int(exceeded.sum()),
        a.size,
    )


def distance_of_rows(ours: Any, theirs: Any, atol: float, rtol: float) -> Distance:
    """Return the distance of arrays of the same shape whose rows may be in different orders."""
    import numpy as np

    def in_order(values: Any) -> Any:
        rows = values.reshape(-1, values.shape[-1])
        return rows[np.lexsort(rows.T[::-1])]

    near = distance(ours, theirs, atol, rtol)
    if not near.exceeded or ours.ndim < 2:
        return near
    return min(near, distance(in_order(ours), in_order(theirs), atol, rtol), key=lambda one: one.exceeded)
