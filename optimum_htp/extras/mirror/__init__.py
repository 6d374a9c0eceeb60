"""Filling mirrors."""

from __future__ import annotations

from collections.abc import Sequence

from optimum_htp.commands import CommandEntry
from optimum_htp.hookspecs import hookimpl


@hookimpl
def optimum_htp_commands() -> Sequence[CommandEntry]:
    """Add the command."""
    return [
        CommandEntry(
            "mirror",
            "Copy the files of a commit to a mirror (see OPTIMUM_HTP_MIRRORS); with --weights also the weights.",
            f"{__name__}.command:MirrorCommand",
        )
    ]
