"""What is found out about a weight."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

__all__ = ["Evidence", "WeightFinding"]


class Evidence(Enum):
    """What is known of a weight, the worse the later."""

    CONSTANT = "constant"
    PROVEN = "proven"
    DERIVED = "derived"
    UNCHECKED = "unchecked"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class WeightFinding:
    """What is known of a tensor of a file.

    Attributes:
        name: Of the tensor.
        module: The innermost module around its uses; None where the file has no tags.
        evidence: What is known.
        how: By which comparison or rule; of a foreign one what is wrong, of an unchecked one why.
        tensors: Those of the commit that it was matched to.
        elements: How many it has.
        by_value: Whether neither its name nor its module says which tensor it has to be.
    """

    name: str
    module: str | None
    evidence: Evidence
    how: str
    tensors: tuple[str, ...] = ()
    elements: int = 0
    by_value: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "name": self.name,
            "module": self.module,
            "evidence": self.evidence.value,
            "how": self.how,
            "tensors": list(self.tensors),
            "elements": self.elements,
            "by_value": self.by_value,
        }
