"""The Hugging Face Hub: its rules for repo ids, the layout of its cache, and everything else specific to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from optimum_htp.hookspecs import hookimpl

if TYPE_CHECKING:
    from optimum_htp.hubs.base import Hub
    from optimum_htp.hubs.huggingface.hub import HuggingFaceHub

__all__ = ["HuggingFaceHub", "optimum_htp_hubs"]


def __getattr__(name: str) -> Any:
    """Import the class on first use, because every command that loads plugins imports this package."""
    if name != "HuggingFaceHub":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from optimum_htp.hubs.huggingface import hub

    return hub.HuggingFaceHub


@hookimpl
def optimum_htp_hubs() -> Sequence[Hub]:
    """Add the Hugging Face Hub."""
    from optimum_htp.hubs.huggingface.hub import HuggingFaceHub

    return [HuggingFaceHub()]
