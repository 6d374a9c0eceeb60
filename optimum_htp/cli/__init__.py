"""Our commands of optimum-cli. They parse, call the package, and print; they decide nothing.

optimum-cli imports this for each of its commands, so what a command needs is imported when it runs.
"""

from optimum.commands.base import CommandInfo
from optimum.commands.export.base import ExportCommand

from optimum_htp.cli.export import HTPExportCommand
from optimum_htp.cli.group import HTPCommand

__all__ = ["REGISTER_COMMANDS"]

REGISTER_COMMANDS: list[object] = [
    (CommandInfo(name="htp", help=HTPExportCommand.COMMAND.help, subcommand_class=HTPExportCommand), ExportCommand),
    HTPCommand,
]
