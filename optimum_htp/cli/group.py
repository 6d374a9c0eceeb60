"""`optimum-cli htp`: the group of commands for ONNX files with a record."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any, Final

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo

from optimum_htp.commands import CommandEntry

__all__ = ["HTPCommand", "commands"]

_COMMANDS: Final = tuple(
    CommandEntry(name, text, f"optimum_htp.cli.{module}:{name.capitalize()}Command")
    for name, module, text in (
        (
            "compare",
            "compare",
            "Compare two ONNX files of a model, or an ONNX file and its PyTorch model, module by module: "
            "operators, weights, and the outputs of each module for the same inputs.",
        ),
        ("embed", "stamping", "Embed config and preprocessor files into ONNX files with a record."),
        ("env", "env", "Print the installed versions and the incompatibilities that are bridged."),
        ("extract", "modules", "Write one module of an ONNX file as a separate ONNX model."),
        ("info", "info", "Show record, inputs, outputs and modules of ONNX files; of a URL, the record."),
        ("inject", "stamping", "Add a record of the source model to existing ONNX files."),
        ("nodes", "modules", "Print the names of the nodes of modules, selected by path, glob or class."),
        ("report", "info", "Write a report about ONNX files: .json, .md or .html."),
        ("run", "run", "Run an ONNX file on texts or images, without PyTorch."),
        ("strip", "stamping", "Remove all metadata of this package from ONNX files."),
        ("tag", "stamping", "Tag each node with its module of the PyTorch model."),
        (
            "unembed",
            "stamping",
            "Remove embedded config and preprocessor files from ONNX files; with -o, extract them.",
        ),
        (
            "verify",
            "verify",
            "Check the records of ONNX files; with --weights, check every weight against the commit.",
        ),
    )
)


class HTPCommand(BaseOptimumCLICommand):  # type: ignore[misc]
    """Prints its help if no command is given."""

    COMMAND = CommandInfo(name="htp", help="Export, run, inspect, verify, compare and push ONNX files.")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare no arguments; the parsers of the commands get the class of this one."""
        from optimum_htp.cli.parser import adopt

        adopt(parser)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # optimum-cli creates the parsers of all commands each time. Ours are created only for `optimum-cli htp`.
        if self.COMMAND.name in sys.argv[1:2]:
            is_core = any(entry.name in sys.argv[2:3] for entry in _COMMANDS)
            self.SUBCOMMANDS = tuple(map(_info, _COMMANDS if is_core else commands()))
        super().__init__(*args, **kwargs)


def commands() -> list[CommandEntry]:
    """Return all commands of the group, sorted by name. This loads the plugins, which takes time."""
    from optimum_htp import plugins

    known = {entry.name: entry for entry in _COMMANDS}
    known |= plugins.commands(known.keys())
    return [known[name] for name in sorted(known)]


def _info(entry: CommandEntry) -> CommandInfo:
    if entry.name not in sys.argv[2:3]:
        return CommandInfo(entry.name, entry.help, subcommand_class=_Unused)
    try:
        return CommandInfo(entry.name, entry.help, subcommand_class=entry.load())
    except Exception as error:  # code of plugins can raise anything
        sys.stderr.write(
            f"error: the command {entry.name} cannot be loaded from {entry.target}: {type(error).__name__}: {error}. "
            "Upgrade or uninstall the plugin that adds it.\n"
        )
        raise SystemExit(1) from error


class _Unused(BaseOptimumCLICommand):  # type: ignore[misc]
    """A command that is not run: the list of commands shows its name and its help."""
