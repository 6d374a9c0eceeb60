"""The time that modules take."""

from __future__ import annotations

from collections.abc import Sequence

from optimum_htp.commands import CommandEntry
from optimum_htp.hookspecs import hookimpl


@hookimpl
def optimum_htp_commands() -> Sequence[CommandEntry]:
    """Add the command."""
    return [
        CommandEntry(
            "profile",
            "Run an ONNX file and show the time that each module takes.",
            f"{__name__}.command:ProfileCommand",
        )
    ]
