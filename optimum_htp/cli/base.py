"""Base class of our commands: an error becomes one line and an exit code, and a signal ends the command cleanly.

optimum-cli imports this module for each of its commands. A command therefore imports its dependencies when it runs.
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

from optimum_htp.cli.interrupts import Stop, send_again
from optimum_htp.masking import get_logger

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Command", "message_of"]

logger = get_logger(__name__)

_COMMANDS: Final = (["htp"], ["export", "htp"])
_CLOSED: Final = 128 + 13  # exit code in a shell of a program that SIGPIPE ended
_DEBUG: Final = "OPTIMUM_HTP_DEBUG"
_QUIET: Final = "Print no progress and no results, only errors and requested data."
_WIDEST: Final = 100  # characters per line of help


def _shorten_interrupts() -> None:
    """Make Ctrl-C end in one line also while the arguments are parsed.

    Python drops an exception that is raised in a finalizer, for example during imports. The signal is then sent again.
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


if any(sys.argv[1 : len(names) + 1] == names for names in _COMMANDS):  # other commands of optimum-cli are unchanged
    _shorten_interrupts()


class Command(BaseOptimumCLICommand):  # type: ignore[misc]
    """A command that reports a failure in one line on standard error and exits with code 1.

    Attributes:
        stop: State of the signals.
        partial: Fields of the JSON document of a failed command, besides the error.
        examples: Command lines for the help, without `optimum-cli`.
        exit_codes: Meaning of the exit codes, for the help.
    """

    stop: Stop
    examples: ClassVar[tuple[str, ...]] = ()
    exit_codes: ClassVar[str] = "0 done, 1 an error, 2 wrong arguments, 130 interrupted"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.partial: dict[str, Any] = {}
        super().__init__(*args, **kwargs)
        if not kwargs.get("from_defaults_factory"):  # a second instance, with a complete parser
            self.describe(self.parser, self.COMMAND.help)

    @classmethod
    def describe(cls, parser: ArgumentParser, text: str) -> None:
        """Complete the parser of this command: option names, `--quiet`, examples and exit codes.

        An existing description is kept; otherwise `text` becomes the description.
        """
        from optimum_htp.cli.parser import adopt

        parser.add_argument("-q", "--quiet", action="store_true", help=_QUIET)
        adopt(parser)
        width = min(shutil.get_terminal_size().columns, _WIDEST) - 2
        parser.formatter_class = RawDescriptionHelpFormatter
        parser.description = parser.description or "\n".join(textwrap.wrap(text, width))
        lines = ["examples:", *(f"  optimum-cli {example}" for example in cls.examples), "", "exit codes:"]
        codes = textwrap.wrap(cls.exit_codes, width, initial_indent="  ", subsequent_indent="  ")
        parser.epilog = "\n".join([*lines, *codes])

    def run(self) -> None:
        """Run the command; raise `SystemExit` if it fails."""
        from optimum_htp.cli.display import OutputClosedError, logging_in_lines, quieted

        self.stop = Stop()
        if os.environ.get(_DEBUG):
            logging.basicConfig()
            logging.getLogger("optimum_htp").setLevel(logging.DEBUG)
        with self.stop.listening(), logging_in_lines(), quieted(is_quiet=self.args.quiet):
            try:
                self._execute_and_flush()
            except OutputClosedError:
                self._exit(_CLOSED)
            except KeyboardInterrupt:
                self._interrupted()
            except Exception as error:  # noqa: BLE001 - an unexpected error is reported as our bug
                if self.stop.wanted:  # an import of an extension converted the signal
                    self._interrupted()
                self._failed(error)

    def _execute_and_flush(self) -> None:
        """Execute the command and flush its output, also if it raises `SystemExit`."""
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
        """Execute the command."""

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
        except OutputError:  # the error is already on standard error, if that is writable
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
        # A transfer can still run in a thread. Python would wait for the thread or for the lock of its socket, and an
        # old hf_xet would crash.
        threads = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
        is_left = self.stop.wanted or any(thread.name == TRANSFERS for thread in threads)
        if self.stop.left_threads or (is_left and threads):
            os._exit(code)
        raise SystemExit(code) from None


def message_of(error: Exception, file: str | None = None) -> str:
    """Return the message of an error. The file that caused it is added if the message does not contain it."""
    from optimum_htp.errors import OptimumHTPError

    text = str(error)
    if not isinstance(error, (OptimumHTPError, OSError)):
        text = (
            f"{type(error).__name__}: {text or 'no message'}. This is a bug of optimum-htp: please report it "
            f"with the output of {_DEBUG}=1."
        )
    return text if file is None or file in text else f"{file}: {text}"
