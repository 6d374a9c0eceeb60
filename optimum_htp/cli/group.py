"""`optimum-cli htp`: the group of commands for ONNX files that carry a record."""

from __future__ import annotations

import importlib
import sys
from typing import Any, Final

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo

__all__ = ["HTPCommand"]

_COMMANDS: Final = {
    "batch": "BatchCommand",
    "bom": "BomCommand",
    "compare": "CompareCommand",
    "embed": "EmbedCommand",
    "endpoint": "EndpointCommand",
    "env": "EnvCommand",
    "extract": "ExtractCommand",
    "info": "InfoCommand",
    "inject": "InjectCommand",
    "mirror": "MirrorCommand",
    "nodes": "NodesCommand",
    "profile": "ProfileCommand",
    "push": "PushCommand",
    "report": "ReportCommand",
    "strip": "StripCommand",
    "tag": "TagCommand",
    "unembed": "UnembedCommand",
    "verify": "VerifyCommand",
}
"""The commands, by the module in this folder that holds each."""


class HTPCommand(BaseOptimumCLICommand):  # type: ignore[misc]
    """Without a subcommand it prints its help."""

    COMMAND = CommandInfo(name="htp", help="Read, write and check what ONNX files say about the model they came from.")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # optimum-cli makes the parsers of all its commands each time, so ours are only made where they are asked for.
        if self.COMMAND.name in sys.argv[1:2]:
            self.SUBCOMMANDS = tuple(map(_info, _COMMANDS))
        super().__init__(*args, **kwargs)


def _info(name: str) -> CommandInfo:
    command = getattr(importlib.import_module(f"optimum_htp.cli.{name}"), _COMMANDS[name])
    return CommandInfo(name=name, help=command.COMMAND.help, subcommand_class=command)
