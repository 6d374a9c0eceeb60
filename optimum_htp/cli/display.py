"""Output of our commands, one line per call.

Control characters in file contents, file names and messages of libraries are escaped, so they cannot change the
terminal or fake a line. If the reader of a pipe has closed it (`| head`), the command ends silently.
"""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import logging
import os
import re
import shutil
import sys
import textwrap
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TextIO

from optimum_htp.errors import OutputError
from optimum_htp.masking import mask_record, masked, without_secrets
from optimum_htp.report.texts import json_text, printable, sentence

if TYPE_CHECKING:
    from optimum_htp.onnxfile import TensorSpec

__all__ = [
    "amount",
    "OutputClosedError",
    "bar",
    "close_quietly",
    "cut",
    "flush",
    "folded",
    "is_hidden",
    "logging_in_lines",
    "quieted",
    "show",
    "show_data",
    "show_error",
    "show_json",
    "show_progress",
    "wrapped",
]

_QUIET: Final = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "PYTHONWARNINGS": "ignore",
}
"""Environment variables that silence libraries in child processes."""
_OF_A_LAYER: Final = re.compile(r"((?:past|present)\w*\.)(\d{1,6})(\.(?:\w+\.)*)(\w+)", re.ASCII)
_FEWEST: Final = 3  # names in a group that is shortened


class OutputClosedError(Exception):
    """The reader of the output has closed the pipe."""


_quiet: ContextVar[bool] = ContextVar("quiet", default=False)


@contextlib.contextmanager
def quieted(*, is_quiet: bool) -> Iterator[None]:
    """Show neither progress nor results in this block, if `is_quiet`; in child processes neither."""
    if not is_quiet:
        yield
        return
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    for package in ("huggingface_hub", "transformers", "diffusers", "optimum", "optimum_htp"):
        logging.getLogger(package).setLevel(logging.ERROR)
    if "huggingface_hub" in sys.modules:
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
    token = _quiet.set(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _quiet.reset(token)


def show(line: str = "", file: TextIO | None = None) -> None:
    """Print a line of a result on standard output, or an error on the given stream. `--quiet` hides results.

    Raises:
        OutputClosedError: The reader has closed the pipe.
        OutputError: The line cannot be written, for example because the disk is full.
    """
    if file is not None or not _quiet.get():
        _write(printable(without_secrets(line)), file)


def amount(count: int, noun: str) -> str:
    """Return a number with its noun: `1 file`, `2,000 files`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def show_progress(line: str) -> None:
    """Print a line about the progress on standard error. `--quiet` hides it."""
    if not _quiet.get():
        _write(printable(without_secrets(line)), sys.stderr)


def show_data(line: str) -> None:
    """Print a line of requested data on standard output, also with `--quiet`."""
    _write(printable(without_secrets(line)), None)


def show_error(message: str) -> None:
    """Print an error on standard error, in one line."""
    _write(f"error: {sentence(without_secrets(message))}", sys.stderr)


def show_json(document: Any) -> None:
    """Print a JSON document.

    Raises:
        OutputClosedError: The reader has closed the pipe.
        OutputError: The document cannot be written, for example because the disk is full.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    _write(json_text(masked(document), indent=2, ascii_only=codecs.lookup(encoding).name != "utf-8"), None)


def flush() -> None:
    """Flush standard output; the exceptions are those of `show`."""
    if sys.stdout is not None:
        with _writing("output"):
            sys.stdout.flush()


def close_quietly() -> None:
    """Flush the standard streams; redirect a failing one, so that the interpreter reports no error at its end."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


@contextlib.contextmanager
def logging_in_lines() -> Iterator[None]:
    """Escape control characters in the log messages of this package, and mask secrets in those of all packages."""
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
    """Yield texts in lines that fit the terminal, if standard output is one, after `taken` columns."""
    width = _width()
    for line in map(printable, lines):
        if width is None or len(line) <= width - taken:
            yield line
        else:
            yield from textwrap.wrap(line, max(20, width - taken), break_on_hyphens=False)


def folded(specs: Sequence[TensorSpec]) -> list[str]:
    """Return inputs or outputs as lines. The key-value caches of all layers, of one type and shape, are one line.

    `past_key_values.0.key` to `past_key_values.11.value` become `past_key_values.0…11.key/value`.
    """
    groups: dict[Hashable, list[tuple[TensorSpec, int, str]]] = {}
    for spec in specs:
        match = _OF_A_LAYER.fullmatch(spec.name)
        key = (match[1], match[3], spec.dtype, spec.shape) if match else spec.name
        layer, leaf = (int(match[2]), match[4]) if match else (0, spec.name)
        groups.setdefault(key, []).append((spec, layer, leaf))
    lines: list[str] = []
    for group in groups.values():
        layers = sorted({layer for _, layer, _ in group})
        leaves = list(dict.fromkeys(leaf for _, _, leaf in group))
        is_complete = layers[-1] - layers[0] + 1 == len(layers) and len(layers) * len(leaves) == len(group)
        match = _OF_A_LAYER.fullmatch(group[0][0].name)
        if match is None or len(group) < _FEWEST or not is_complete:
            lines += [str(spec) for spec, _, _ in group]
            continue
        numbers = f"{layers[0]}…{layers[-1]}" if len(layers) > 1 else str(layers[0])
        name = f"{match[1]}{numbers}{match[3]}{'/'.join(leaves)}"
        lines.append(str(dataclasses.replace(group[0][0], name=name)))
    return lines


def cut(line: str) -> str:
    """Return a line, truncated to the width of the terminal if standard output is a terminal."""
    width, line = _width(), printable(line)
    return line if width is None or len(line) <= width else f"{line[: width - 1]}…"


def _width() -> int | None:
    return shutil.get_terminal_size().columns if sys.stdout is not None and sys.stdout.isatty() else None


def _write(text: str, file: TextIO | None) -> None:
    stream = file or sys.stdout
    if stream is None:  # closed at the start (`>&-`); Python's print is silent then, too
        return
    encoding = stream.encoding or "utf-8"
    with _writing("error" if stream is sys.stderr else "output"):
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream)


@contextlib.contextmanager
def _writing(name: str) -> Iterator[None]:
    """Convert an error of a standard stream."""
    try:
        yield
    except BrokenPipeError as error:
        raise OutputClosedError from error
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(
            f"Standard {name} cannot be written: {reason}. Free disk space, or redirect it to another file."
        ) from error


def is_hidden(*, hidden: bool = False) -> bool | None:
    """Return tqdm's `disable`: None shows a bar if standard error is a terminal."""
    return True if hidden or _quiet.get() else None


@contextlib.contextmanager
def bar(label: str, unit: str, *, hidden: bool) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar if standard error is a terminal; yield a function that takes the progress and the total."""
    from tqdm import tqdm

    with tqdm(desc=printable(label), unit=unit, disable=is_hidden(hidden=hidden), leave=False) as shown:

        def tell(done: int, total: int) -> None:
            shown.total = total
            shown.update(done - shown.n)

        yield tell
