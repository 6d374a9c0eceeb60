"""The Hugging Face Hub: all that is its own, from the rules for its repo ids to the layout of its cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from optimum_htp.hookspecs import hookimpl

if TYPE_CHECKING:
    from optimum_htp.hubs.base import Hub


@hookimpl
def optimum_htp_hubs() -> Sequence[Hub]:
    """Add the Hugging Face Hub."""
    from optimum_htp.hubs.huggingface.hub import HuggingFaceHub

    return [HuggingFaceHub()]
