"""Suggestions for mistyped names."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["did_you_mean"]


def did_you_mean(text: str, names: Iterable[str]) -> str:
    """Return ` Did you mean NAME?` for the name most similar to a text, or nothing. Leading dashes are ignored."""
    import difflib

    known = {name.lstrip("-"): name for name in names}
    found = difflib.get_close_matches(text.lstrip("-"), sorted(known), n=1)
    return f" Did you mean {known[found[0]]}?" if found else ""
