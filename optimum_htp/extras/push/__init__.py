"""Pushing files to a Hub, in one commit, with a model card.

The layouts of a repo: as on disk, or as transformers.js expects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from optimum_htp.commands import CommandEntry, Destination
from optimum_htp.hookspecs import hookimpl

__all__ = ["LAYOUTS", "OPTIMUM", "TRANSFORMERS_JS"]

OPTIMUM: Final = "optimum"
TRANSFORMERS_JS: Final = "transformers.js"
LAYOUTS: Final = (OPTIMUM, TRANSFORMERS_JS)


@hookimpl
def optimum_htp_commands() -> Sequence[CommandEntry]:
    """Add the command."""
    return [
        CommandEntry(
            "push",
            "Push ONNX files with a record to the Hugging Face Hub, with a model card, in one commit.",
            f"{__name__}.command:PushCommand",
        )
    ]


@hookimpl
def optimum_htp_destinations() -> Sequence[Destination]:
    """Add `--push-to-hub`."""
    from optimum_htp.extras.push.command import PushDestination

    return [PushDestination()]
