"""`optimum-cli htp`: the group of commands for ONNX files that carry a record."""

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo

from optimum_htp.cli.info import InfoCommand
from optimum_htp.cli.inject import InjectCommand
from optimum_htp.cli.profile import ProfileCommand
from optimum_htp.cli.report import ReportCommand
from optimum_htp.cli.strip import StripCommand
from optimum_htp.cli.tag import TagCommand
from optimum_htp.cli.verify import VerifyCommand

__all__ = ["HTPCommand"]


class HTPCommand(BaseOptimumCLICommand):  # type: ignore[misc]
    """Without a subcommand it prints its help."""

    COMMAND = CommandInfo(name="htp", help="Read, write and check what ONNX files say about the model they came from.")
    SUBCOMMANDS = tuple(
        CommandInfo(name=command.COMMAND.name, help=command.COMMAND.help, subcommand_class=command)
        for command in (
            InfoCommand,
            InjectCommand,
            ProfileCommand,
            ReportCommand,
            StripCommand,
            TagCommand,
            VerifyCommand,
        )
    )
