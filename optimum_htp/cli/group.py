"""`optimum-cli htp`: the group of commands for ONNX files that carry a record."""

from __future__ import annotations

import sys
from typing import Any, Final

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo

from optimum_htp.commands import CommandEntry

__all__ = ["HTPCommand", "commands"]

_MODULES: Final = {"unembed": "embed"}
"""The commands whose module has another name."""

_COMMANDS: Final = tuple(
    CommandEntry(name, text, f"optimum_htp.cli.{_MODULES.get(name, name)}:{name.capitalize()}Command")
    for name, text in {
        "compare": (
            "Compare two ONNX files of a model, or one with its PyTorch model, module by module: operators, weights, "
            "and the outputs of each on the same inputs."
        ),
        "embed": "Put config and preprocessor files into ONNX files that have a record.",
        "env": "Print the installed versions, and which breaks between them are bridged.",
        "extract": "Write a module of an ONNX file as an ONNX model of its own.",
        "info": "Show which model ONNX files came from; also of a file on a Hub (hf://).",
        "inject": "Write into ONNX files which model they came from.",
        "nodes": "Print the names of the nodes of modules, by path, glob or class.",
        "report": "Write a report of ONNX files: .json, .md, or an .html page to look at.",
        "run": "Answer texts or images on the terminal with an ONNX file, without PyTorch.",
        "strip": "Remove from ONNX files everything that this package wrote into them.",
        "tag": "Write into each node which module of the PyTorch model it came from.",
        "unembed": "Take embedded config and preprocessor files out of ONNX files.",
        "verify": (
            "Check that the records of ONNX files are true; with --weights, that every weight is from the commit."
        ),
    }.items()
)


class HTPCommand(BaseOptimumCLICommand):  # type: ignore[misc]
    """Without a subcommand it prints its help."""

    COMMAND = CommandInfo(name="htp", help="Read, write and check what ONNX files say about the model they came from.")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # optimum-cli makes the parsers of all its commands each time, so ours are only made where they are asked for.
        if self.COMMAND.name in sys.argv[1:2]:
            is_core = any(entry.name in sys.argv[2:3] for entry in _COMMANDS)
            self.SUBCOMMANDS = tuple(map(_info, _COMMANDS if is_core else commands()))
        super().__init__(*args, **kwargs)


def commands() -> list[CommandEntry]:
    """Return all commands of the group by their names; plugins, which add some, take time to load."""
    from optimum_htp import plugins

    known = {entry.name: entry for entry in _COMMANDS}
    known |= plugins.commands(known.keys())
    return [known[name] for name in sorted(known)]


def _info(entry: CommandEntry) -> CommandInfo:
    if entry.name not in sys.argv[2:3]:
        return CommandInfo(entry.name, entry.help, subcommand_class=_Unused)
    try:
        return CommandInfo(entry.name, entry.help, subcommand_class=entry.load())
    except Exception as error:  # others' code may raise anything
        sys.stderr.write(
            f"error: The command {entry.name} cannot be loaded from {entry.target}: {type(error).__name__}: {error}. "
            "Upgrade or uninstall the plugin that adds it.\n"
        )
        raise SystemExit(1) from error


class _Unused(BaseOptimumCLICommand):  # type: ignore[misc]
    """A command that was not asked for: the list of commands has its name and its help."""
