"""How far two arrays are apart."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

__all__ = ["Distance", "distance", "distance_of_rows", "incomparable"]

_TINY: Final = 1.2e-38  # the smallest normal float32


@dataclass(frozen=True)
class Distance:
    """How far values are from those that they are compared with.

    Attributes:
        absolute: The largest difference.
        relative: The largest difference, as a part of what it is compared with.
        cosine: Of the angle between both, taken as vectors; 1 where both are zero.
        norm: The difference's Euclidean norm, as a part of that of what it is compared with.
        exceeded: How many elements differ by more than the tolerances allow, or are a number on one side alone.
        elements: How many there are.
    """

    absolute: float
    relative: float
    cosine: float
    norm: float
    exceeded: int
    elements: int

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data; what is no number is None."""
        return {
            key: value if value == value and abs(value) != float("inf") else None
            for key, value in asdict(self).items()
        }


def incomparable(elements: int) -> Distance:
    """Return the distance of values from what has no place for them: all of them are beyond any tolerance."""
    count = max(elements, 1)
    return Distance(float("inf"), float("inf"), 0.0, float("inf"), count, count)


def distance(ours: Any, theirs: Any, atol: float, rtol: float) -> Distance:
    """Return how far `ours` is from `theirs`, of the same size: as numpy's `allclose` has it."""
    import numpy as np

    a, b = (np.asarray(values).reshape(-1).astype(np.float64) for values in (ours, theirs))
    if a.size == 0:
        return Distance(0.0, 0.0, 1.0, 0.0, 0, 0)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        difference = np.where(same, 0.0, np.abs(a - b))
        # As in allclose, an infinity is near itself alone: a tolerance that grows with it would allow everything.
        finite = np.isfinite(a) & np.isfinite(b)
        exceeded = ~same & ~(finite & (difference <= atol + rtol * np.abs(b)))
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
    """Return how far arrays of the same shape are apart, whose rows may be in different orders."""
    import numpy as np

    def in_order(values: Any) -> Any:
        rows = values.reshape(-1, values.shape[-1])
        return rows[np.lexsort(rows.T[::-1])]

    near = distance(ours, theirs, atol, rtol)
    if not near.exceeded or ours.ndim < 2:
        return near
    return min(near, distance(in_order(ours), in_order(theirs), atol, rtol), key=lambda one: one.exceeded)
