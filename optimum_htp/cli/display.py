"""The one way to the terminal: what our commands print goes through here, one line a call.

Nothing in a file, a file's name or another library's message steers the terminal or forges a line. Where the reader
of a pipe has had enough (`| head`), the command ends without a word.
"""

from __future__ import annotations

import codecs
import contextlib
import logging
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

from optimum_htp.errors import OutputError
from optimum_htp.masking import mask_record, masked, without_secrets
from optimum_htp.report.texts import json_text, printable, sentence

__all__ = [
    "OutputClosedError",
    "bar",
    "close_quietly",
    "cut",
    "flush",
    "logging_in_lines",
    "show",
    "show_error",
    "show_json",
    "wrapped",
]


class OutputClosedError(Exception):
    """Nobody reads what is printed any more."""


def show(line: str = "", file: TextIO | None = None) -> None:
    """Print a line, on standard output where no other stream is given.

    Raises:
        OutputClosedError: Nobody reads it.
        OutputError: It cannot be written, as on a full disk.
    """
    _write(printable(without_secrets(line)), file)


def show_error(message: str) -> None:
    """Print what went wrong on standard error, as one line."""
    _write(f"error: {sentence(without_secrets(message))}", sys.stderr)


def show_json(document: Any) -> None:
    """Print a JSON document.

    Raises:
        OutputClosedError: Nobody reads it.
        OutputError: It cannot be written, as on a full disk.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    _write(json_text(masked(document), indent=2, ascii_only=codecs.lookup(encoding).name != "utf-8"), None)


def flush() -> None:
    """Print what is still held back.

    Raises:
        OutputClosedError: Nobody reads it.
        OutputError: It cannot be written, as on a full disk.
    """
    if sys.stdout is not None:
        with _writing("output"):
            sys.stdout.flush()


def close_quietly() -> None:
    """Let the interpreter, which flushes at its end, not complain about what cannot be written."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


@contextlib.contextmanager
def logging_in_lines() -> Iterator[None]:
    """Make what this package logs in this block as harmless as what it prints. No package logs secrets in it."""
    before = logging.getLogRecordFactory()

    def made(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = before(*args, **kwargs)
        if record.name.partition(".")[0] == __name__.partition(".")[0]:
            record.msg, record.args = sentence(record.getMessage()), None
        mask_record(record)
        return record

    logging.setLogRecordFactory(made)
    try:
        yield
    finally:
        logging.setLogRecordFactory(before)


def wrapped(lines: Sequence[str], taken: int) -> Iterator[str]:
    """Yield texts in lines that fit the terminal, where standard output is one.

    Args:
        lines: The texts.
        taken: Columns that are taken by what stands before each.
    """
    width = _width()
    for line in map(printable, lines):
        if width is None or len(line) <= width - taken:
            yield line
        else:
            yield from textwrap.wrap(line, max(20, width - taken), break_on_hyphens=False)


def cut(line: str) -> str:
    """Return a line as far as it fits the terminal, where standard output is one."""
    width, line = _width(), printable(line)
    return line if width is None or len(line) <= width else f"{line[: width - 1]}…"


def _width() -> int | None:
    return shutil.get_terminal_size().columns if sys.stdout is not None and sys.stdout.isatty() else None


def _write(text: str, file: TextIO | None) -> None:
    stream = file or sys.stdout
    if stream is None:  # it was closed before we were started (`>&-`), where Python's own print says nothing either
        return
    encoding = stream.encoding or "utf-8"
    with _writing("error" if stream is sys.stderr else "output"):
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream)


@contextlib.contextmanager
def _writing(name: str) -> Iterator[None]:
    """Tell what the system says of a standard stream that cannot be written to."""
    try:
        yield
    except BrokenPipeError as error:
        raise OutputClosedError from error
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(
            f"Standard {name} cannot be written to: {reason}. Make room there, or redirect it elsewhere."
        ) from error


@contextlib.contextmanager
def bar(label: str, unit: str, *, hidden: bool) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar if standard error is a terminal; give a function that takes what is done, and of what.

    Args:
        label: What is worked on.
        unit: Of what is counted.
        hidden: Whether another bar is there already.
    """
    from tqdm import tqdm

    with tqdm(desc=printable(label), unit=unit, disable=True if hidden else None, leave=False) as shown:

        def tell(done: int, total: int) -> None:
            shown.total = total
            shown.update(done - shown.n)

        yield tell
