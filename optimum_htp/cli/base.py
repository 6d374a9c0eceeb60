"""What our commands share: errors become one sentence and an exit code, and Ctrl-C or a kill cleans up.

optimum-cli imports this for each of its commands, so what a command needs is imported when it runs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import sys
import textwrap
import threading
from abc import abstractmethod
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn

from optimum.commands.base import BaseOptimumCLICommand

from optimum_htp.cli.signals import send_again
from optimum_htp.masking import get_logger

if TYPE_CHECKING:
    from types import TracebackType

    from optimum_htp.cli.interrupts import Stop

__all__ = ["Command", "message_of"]

logger = get_logger(__name__)

_OURS: Final = (["htp"], ["export", "htp"])
_CLOSED: Final = 128 + 13  # what a shell says of a program that SIGPIPE ended
_DEBUG: Final = "OPTIMUM_HTP_DEBUG"
_WIDEST: Final = 100  # characters of a line of help


def _say_no_more_than_interrupted() -> None:
    """Let Ctrl-C before a command runs, while its arguments are read, end with one line too.

    Python drops an exception that is raised in a finalizer, as there are while modules are imported: the signal is
    then sent again.
    """
    before, unraisable = sys.excepthook, sys.unraisablehook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.stderr.write("interrupted\n")
        else:
            before(kind, error, trace)

    def on_unraisable(lost: sys.UnraisableHookArgs) -> None:
        if lost.exc_type is KeyboardInterrupt:
            send_again(signal.SIGINT)
        else:
            unraisable(lost)

    sys.excepthook = hook
    sys.unraisablehook = on_unraisable


if any(sys.argv[1 : len(names) + 1] == names for names in _OURS):  # no other command of optimum-cli is concerned
    _say_no_more_than_interrupted()


class Command(BaseOptimumCLICommand):  # type: ignore[misc]
    """A command that ends with exit code 1 and a sentence on standard error where something fails.

    Attributes:
        stop: Whether a signal came.
        partial: What a JSON document has beside the error where the command fails.
        examples: Command lines for the help, without `optimum-cli`.
        exit_codes: What the exit codes of the command mean, for the help.
    """

    stop: Stop
    examples: ClassVar[tuple[str, ...]] = ()
    exit_codes: ClassVar[str] = "0 done, 1 an error, 2 wrong arguments, 130 interrupted"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.partial: dict[str, Any] = {}
        super().__init__(*args, **kwargs)
        self.describe(self.parser, self.COMMAND.help)

    @classmethod
    def describe(cls, parser: ArgumentParser, text: str) -> None:
        """Give a parser of this command a description, examples and exit codes.

        Args:
            parser: The parser.
            text: What the command does; a parser that has a description keeps it.
        """
        width = min(shutil.get_terminal_size().columns, _WIDEST) - 2
        parser.formatter_class = RawDescriptionHelpFormatter
        parser.description = parser.description or "\n".join(textwrap.wrap(text, width))
        lines = ["examples:", *(f"  optimum-cli {example}" for example in cls.examples), "", "exit codes:"]
        codes = textwrap.wrap(cls.exit_codes, width, initial_indent="  ", subsequent_indent="  ")
        parser.epilog = "\n".join([*lines, *codes])

    def run(self) -> None:
        """Run the command; raise `SystemExit` where it fails."""
        from optimum_htp.cli.display import OutputClosedError, logging_in_lines
        from optimum_htp.cli.interrupts import Stop

        self.stop = Stop()
        if os.environ.get(_DEBUG):
            logging.basicConfig()
            logging.getLogger("optimum_htp").setLevel(logging.DEBUG)
        with self.stop.listening(), logging_in_lines():
            try:
                self._execute_and_flush()
            except OutputClosedError:
                self._exit(_CLOSED)
            except KeyboardInterrupt:
                self._interrupted()
            except Exception as error:  # noqa: BLE001 - what no file or Hub is to blame for is told as our bug
                if self.stop.wanted:  # the signal came while an extension was imported, which made this of it
                    self._interrupted()
                self._failed(error)

    def _execute_and_flush(self) -> None:
        """Do what the command is for, and print what is held back, also where it ends with a code of its own."""
        from optimum_htp.cli.display import flush

        ended: SystemExit | None = None
        try:
            self.execute()
        except SystemExit as end:
            ended = end
        flush()
        self.stop.check()
        if ended is not None:
            raise ended

    @abstractmethod
    def execute(self) -> None:
        """Do what the command is for."""

    def _failed(self, error: Exception) -> NoReturn:
        from optimum_htp.cli.display import OutputClosedError, show_error, show_json
        from optimum_htp.errors import OutputError

        message = message_of(error)
        logger.debug("The command failed", exc_info=error)
        try:
            show_error(message)
            if getattr(self.args, "json", False):
                show_json({**self.partial, "error": type(error).__name__, "message": message})
        except OutputClosedError:
            self._exit(_CLOSED)
        except OutputError:  # standard error is told, where that can be written to
            pass
        self._exit(1)

    def _interrupted(self) -> NoReturn:
        from optimum_htp.cli.display import OutputClosedError, show
        from optimum_htp.errors import OutputError

        logger.debug("The command was interrupted", exc_info=True)
        with contextlib.suppress(OutputClosedError, OutputError):
            show("interrupted", sys.stderr)
        self._exit(self.stop.code)

    def _exit(self, code: int) -> NoReturn:
        from optimum_htp.cli.display import close_quietly
        from optimum_htp.hubs.daemons import TRANSFERS

        close_quietly()
        # A transfer may go on in a thread. Python would wait for it, or for the lock of its socket, and an old hf_xet
        # would make it crash.
        others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
        is_left = self.stop.wanted or any(thread.name == TRANSFERS for thread in others)
        if self.stop.left_threads or (is_left and others):
            os._exit(code)
        raise SystemExit(code) from None


def message_of(error: Exception, file: str | None = None) -> str:
    """Return what went wrong, in words.

    Args:
        error: What was raised.
        file: The file that it was raised for; named where the words do not.
    """
    from optimum_htp.errors import OptimumHTPError

    text = str(error)
    if not isinstance(error, (OptimumHTPError, OSError)):
        text = (
            f"{type(error).__name__}: {text or 'no more is known'}. This is a bug of optimum-htp: please report it, "
            f"with what {_DEBUG}=1 prints."
        )
    return text if file is None or file in text else f"{file}: {text}"
