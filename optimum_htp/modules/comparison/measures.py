"""The distance between two arrays."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

__all__ = ["Distance", "distance", "distance_of_rows", "incomparable"]

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


def incomparable(elements: int) -> Distance:
    """Return the distance of values without a counterpart: all of them exceed any tolerance."""
    count = max(elements, 1)
    return Distance(float("inf"), float("inf"), 0.0, float("inf"), count, count)


def distance(ours: Any, theirs: Any, atol: float, rtol: float) -> Distance:
    """Return the distance of `ours` from `theirs`, of the same size, with the tolerances of numpy's `allclose`."""
    import numpy as np

    a, b = (np.asarray(values).reshape(-1).astype(np.float64) for values in (ours, theirs))
    if a.size == 0:
        return Distance(0.0, 0.0, 1.0, 0.0, 0, 0)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        difference = np.where(same, 0.0, np.abs(a - b))
        # As in allclose, infinities must match exactly, because a relative tolerance of infinity would accept
        # everything.
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
    """Return the distance of arrays of the same shape whose rows may be in different orders."""
    import numpy as np

    def in_order(values: Any) -> Any:
        rows = values.reshape(-1, values.shape[-1])
        return rows[np.lexsort(rows.T[::-1])]

    near = distance(ours, theirs, atol, rtol)
    if not near.exceeded or ours.ndim < 2:
        return near
    return min(near, distance(in_order(ours), in_order(theirs), atol, rtol), key=lambda one: one.exceeded)
