"""Bills of materials (CycloneDX)."""

from __future__ import annotations

from collections.abc import Sequence

from optimum_htp.commands import CommandEntry
from optimum_htp.hookspecs import hookimpl


@hookimpl
def optimum_htp_commands() -> Sequence[CommandEntry]:
    """Add the command."""
    return [
        CommandEntry(
            "bom",
            "Write a bill of materials (CycloneDX 1.6) of ONNX files: model, commit, license, digests.",
            f"{__name__}.command:BomCommand",
        )
    ]
