"""Batches: many models are exported side by side, each one once, on this machine or on a Dask cluster."""

from __future__ import annotations

from collections.abc import Sequence

from optimum_htp.commands import CommandEntry
from optimum_htp.hookspecs import hookimpl


@hookimpl
def optimum_htp_commands() -> Sequence[CommandEntry]:
    """Add the command."""
    return [
        CommandEntry(
            "batch",
            "Export many models side by side; run again, do what is not done.",
            f"{__name__}.command:BatchCommand",
        )
    ]
