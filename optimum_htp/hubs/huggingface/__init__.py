"""The Hugging Face Hub: its rules for repo ids, the layout of its cache, and everything else specific to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from optimum_htp.hookspecs import hookimpl

if TYPE_CHECKING:
    from optimum_htp.hubs.base import Hub

__all__ = ["optimum_htp_hubs"]


@hookimpl
def optimum_htp_hubs() -> Sequence[Hub]:
    """Add the Hugging Face Hub. Its class is imported on first use, because many commands need no Hub."""
    from optimum_htp.hubs.huggingface.hub import HuggingFaceHub

    return [HuggingFaceHub()]
