"""Pushing files to a Hub, in one commit, with a model card."""

from __future__ import annotations

from collections.abc import Sequence

from optimum_htp.commands import CommandEntry, Destination
from optimum_htp.hookspecs import hookimpl


@hookimpl
def optimum_htp_commands() -> Sequence[CommandEntry]:
    """Add the command."""
    return [
        CommandEntry(
            "push",
            "Push stamped ONNX files to the Hugging Face Hub, with a model card, in one commit.",
            f"{__name__}.command:PushCommand",
        )
    ]


@hookimpl
def optimum_htp_destinations() -> Sequence[Destination]:
    """Add `--push-to-hub`."""
    from optimum_htp.extras.push.command import PushDestination

    return [PushDestination()]
