"""The command `htp endpoint`: writes folders for Hugging Face Inference Endpoints."""

from __future__ import annotations

from collections.abc import Sequence

from optimum_htp.commands import CommandEntry
from optimum_htp.hookspecs import hookimpl


@hookimpl
def optimum_htp_commands() -> Sequence[CommandEntry]:
    """Add the command."""
    return [
        CommandEntry(
            "endpoint",
            "Write handler.py and requirements.txt for a Hugging Face Inference Endpoint.",
            f"{__name__}.command:EndpointCommand",
        )
    ]
