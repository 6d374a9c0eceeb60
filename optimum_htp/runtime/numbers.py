"""Numbers that a call gives."""

from __future__ import annotations

from typing import Any

from optimum_htp.errors import ArgumentError

__all__ = ["check_number"]


def check_number(name: str, value: Any, least: int | None = None) -> None:
    """Refuse what is neither None nor a whole number of at least `least`.

    Raises:
        ArgumentError: It is not.
    """
    if value is None or (isinstance(value, int) and (least is None or value >= least)):
        return
    bound = "" if least is None else f" of at least {least}"
    raise ArgumentError(f"{name}={value!r} has to be a whole number{bound}.")
