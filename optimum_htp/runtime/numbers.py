"""Checks of numeric arguments."""

from __future__ import annotations

from typing import Any

from optimum_htp.errors import ArgumentError

__all__ = ["check_number"]


def check_number(name: str, value: Any, least: int | None = None) -> None:
    """Check that an argument is None, or an integer of at least `least`.

    Raises:
        ArgumentError: It is not.
    """
    if value is None or (isinstance(value, int) and (least is None or value >= least)):
        return
    bound = "" if least is None else f" of at least {least}"
    raise ArgumentError(f"{name}={value!r} must be an integer{bound}.")
