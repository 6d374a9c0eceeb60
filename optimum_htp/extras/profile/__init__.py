"""Times of the modules of a file."""

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
            "Measure the time of each module of an ONNX file.",
            f"{__name__}.command:ProfileCommand",
        )
    ]
