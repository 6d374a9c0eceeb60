"""Batches: exports many models in parallel, on this machine or on a Dask cluster."""

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
            "Export many models in parallel; a second run resumes the first.",
            f"{__name__}.command:BatchCommand",
        )
    ]
