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
            "Put what loading needs of a commit on a mirror, for OPTIMUM_HTP_MIRRORS to name.",
            f"{__name__}.command:MirrorCommand",
        )
    ]
