"""`optimum-cli htp`: the group of commands for ONNX files that carry a record."""

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo

from optimum_htp.cli.info import InfoCommand

__all__ = ["HTPCommand"]


class HTPCommand(BaseOptimumCLICommand):  # type: ignore[misc]
    """Without a subcommand it prints its help."""

    COMMAND = CommandInfo(name="htp", help="Read what ONNX files say about the Hugging Face model they came from.")
    SUBCOMMANDS = (CommandInfo(name="info", help=InfoCommand.COMMAND.help, subcommand_class=InfoCommand),)
