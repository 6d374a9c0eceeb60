"""Findings about a weight."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

__all__ = ["Evidence", "WeightFinding"]


class Evidence(Enum):
    """The result for a weight, from best to worst."""

    CONSTANT = "constant"
    PROVEN = "proven"
    DERIVED = "derived"
    UNCHECKED = "unchecked"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class WeightFinding:
    """The finding about a tensor of a file.

    Attributes:
        name: Name of the tensor.
        module: The innermost module around its uses; None if the file has no tags.
        evidence: The result.
        how: The comparison or rule; for a foreign tensor the fault, for an unchecked one the reason.
        tensors: The matched tensors of the commit.
        elements: Number of elements.
        by_value: Whether neither its name nor its module determines which tensor it must be.
    """

    name: str
    module: str | None
    evidence: Evidence
    how: str
    tensors: tuple[str, ...] = ()
    elements: int = 0
    by_value: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "name": self.name,
            "module": self.module,
            "evidence": self.evidence.value,
            "how": self.how,
            "tensors": list(self.tensors),
            "elements": self.elements,
            "by_value": self.by_value,
        }
