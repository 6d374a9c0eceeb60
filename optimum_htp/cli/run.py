"""`optimum-cli htp run FILE [INPUT...]`: run a model without PyTorch."""

from __future__ import annotations

import sys
from argparse import ArgumentParser

from optimum_htp.cli.base import Command
from optimum_htp.runtime.command import add_arguments, run

__all__ = ["RunCommand"]


class RunCommand(Command):
    """Prints the results of a model for texts or images."""

    examples = (
        'htp run out/model.onnx "I like it"',
        'htp run gpt2/ "Once upon a time" -p max_new_tokens=40',
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments."""
        add_arguments(parser)

    def execute(self) -> None:
        """Run the model on the inputs."""
        from optimum_htp.cli.display import OutputClosedError

        try:
            run(self.args, sys.stdout, sys.stdin)
        except BrokenPipeError as error:
            raise OutputClosedError from error
