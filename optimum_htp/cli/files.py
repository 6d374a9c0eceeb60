"""Base of commands over many files: parallel, with a progress bar; a failure does not stop the other files."""

from __future__ import annotations

import contextlib
import contextvars
import glob
import os
import queue
import threading
from abc import abstractmethod
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from optimum_htp.cli.base import Command, message_of
from optimum_htp.cli.display import is_hidden, show_error, show_json
from optimum_htp.cli.interrupts import Stop
from optimum_htp.cli.options import add_jobs_argument, add_json_argument
from optimum_htp.masking import get_logger

__all__ = ["FilesCommand", "FileResult", "Workers", "add_files_arguments", "expand", "is_manifest"]

logger = get_logger(__name__)

_TICK: Final = 0.5  # seconds; an unlimited wait cannot be interrupted on Windows


@dataclass(frozen=True)
class FileResult:
    """Result of one file: a value, or an error."""

    file: str
    value: Any = None
    error: Exception | None = None


class FilesCommand(Command):
    """A command over files, folders (every `.onnx` file below them), globs, and in some commands URLs."""

    takes_urls: ClassVar[bool] = False

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments of all these commands."""
        add_files_arguments(parser, "ONNX files, folders of them, or globs.")

    def execute(self) -> None:
        """Process the files, report on each, and exit with `exit_code`."""
        from optimum_htp.errors import ArgumentError

        files = self.named_files()
        self.partial = {"files": [], "failed": len(files)}
        if not self.takes_urls and (urls := [file for file in files if "://" in file]):
            raise ArgumentError(
                f"{urls[0]} is a URL, which this command does not read. Download the file first: `hf download "
                "ORG/REPO FILE --local-dir .`"
            )
        work = self.prepare(files)
        workers = Workers(files, lambda file: _outcome(file, work), self.args.jobs, self.stop)
        workers.run()
        outcomes = workers.outcomes
        code = self.exit_code(outcomes)
        if not self.args.json:
            with self.stop.held_back():
                self._report(outcomes, several=len(files) > 1)
        if self.stop.wanted or code:
            more = {"interrupted": True} if self.stop.wanted else {}
        else:
            self.partial = self._document(outcomes)
            more = self.finish(outcomes)
        if self.args.json:
            with self.stop.held_back():
                show_json({**self._document(outcomes), **more})
        self.stop.check()
        if code:
            raise SystemExit(code)

    def _document(self, outcomes: Sequence[FileResult]) -> dict[str, Any]:
        documents = [self._as_document(outcome) for outcome in outcomes]
        return {"files": documents, "failed": sum(outcome.error is not None for outcome in outcomes)}

    def _report(self, outcomes: Sequence[FileResult], *, several: bool) -> None:
        for outcome in outcomes:
            if outcome.error is not None:
                show_error(message_of(outcome.error, outcome.file))
            else:
                self.show(outcome, several=several)

    def named_files(self) -> list[str]:
        """Return the files of the arguments."""
        return expand(self.args.files)

    @abstractmethod
    def prepare(self, files: Sequence[str]) -> Callable[[str], Any]:
        """Prepare what all files need; return the function that processes a file."""

    @abstractmethod
    def show(self, outcome: FileResult, *, several: bool) -> None:
        """Print the result of a file."""

    @abstractmethod
    def document(self, outcome: FileResult) -> dict[str, Any]:
        """Return the result of a file, for JSON."""

    def finish(self, outcomes: Sequence[FileResult]) -> dict[str, Any]:
        """Run a last step if no file failed; return its fields of the JSON document."""
        return {}

    def exit_code(self, outcomes: Iterable[FileResult]) -> int:
        """Return 1 if a file failed."""
        return int(any(outcome.error is not None for outcome in outcomes))

    def _as_document(self, outcome: FileResult) -> dict[str, Any]:
        error = outcome.error
        if error is None:
            return {"file": outcome.file, **self.document(outcome)}
        document = {"file": outcome.file, "error": type(error).__name__, "message": message_of(error)}
        retry_after = getattr(error, "retry_after", None)  # A program can use it.
        return document if retry_after is None else {**document, "retry_after": retry_after}


class Workers:
    """`count` threads that process files, with a progress bar, until all are done or a signal arrives.

    `work` processes a file, and raises only `KeyboardInterrupt`. The threads are daemons, because Python waits for
    threads of `concurrent.futures` at its end. Each thread stores a result before it reports it, so a signal loses no
    finished result.
    """

    def __init__(self, files: Sequence[str], work: Callable[[str], FileResult], count: int, stop: Stop) -> None:
        self._files = files
        self._work = work
        self._stop = stop
        self._found: dict[int, FileResult] = {}
        self._waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[int] = queue.SimpleQueue()
        for index in range(len(files)):
            self._waiting.put(index)
        self._threads = [
            threading.Thread(target=contextvars.copy_context().run, args=(self._take,), daemon=True)
            for _ in range(min(count, len(files)))
        ]

    @property
    def outcomes(self) -> list[FileResult]:
        """The results in the order of the files, without files that a signal prevented."""
        return [self._found[index] for index in sorted(self._found.copy())]

    def run(self) -> None:
        """Process all files, or return after a signal."""
        from tqdm import tqdm

        hidden = is_hidden(hidden=len(self._files) == 1)
        try:
            for thread in self._threads:
                thread.start()
            with tqdm(total=len(self._files), unit="file", disable=hidden, leave=False) as progress:
                for _ in self._files:
                    self._wait_for_one()
                    progress.update()
        except KeyboardInterrupt:
            self._stop.end(self._threads)

    def _wait_for_one(self) -> None:
        while True:
            self._stop.check()
            with contextlib.suppress(queue.Empty):
                self._done.get(timeout=_TICK)
                return

    def _take(self) -> None:
        with contextlib.suppress(queue.Empty, KeyboardInterrupt):
            while not self._stop.wanted:
                index = self._waiting.get_nowait()
                self._found[index] = self._work(self._files[index])
                self._done.put(index)


def add_files_arguments(parser: ArgumentParser, kinds: str) -> None:
    """Declare the arguments of a command over files; `kinds` is the help text of `FILE`."""
    parser.add_argument("files", nargs="+", metavar="FILE", help=kinds)
    add_json_argument(parser)
    add_jobs_argument(parser)


def expand(arguments: Sequence[str]) -> list[str]:
    """Return the files of arguments in order, without repetition. An argument without a file is kept."""
    found: list[str] = []
    for argument in arguments:
        if _is(Path.is_dir, argument):
            found += sorted(_inside(argument)) or [argument]
        elif not _is(Path.exists, argument) and "://" not in argument and glob.has_magic(argument):
            matches = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207 - may be absolute
            found += [file for match in matches for file in expand([match])] or [argument]
        else:
            found.append(argument)
    return list({file if "://" in file else os.path.normpath(file or "?"): file for file in found}.values())


def is_manifest(argument: str) -> bool:
    """Return whether an argument is the manifest of a batch, that is an existing JSON file."""
    return argument.endswith(".json") and _is(Path.is_file, argument)


def _inside(folder: str) -> Iterator[str]:
    """Yield the ONNX files below a folder, without hidden ones: caches and files of killed programs."""
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (str(Path(here, name)) for name in names if name.endswith(".onnx") and not name.startswith("."))


def _is(check: Callable[[Path], bool], argument: str) -> bool:
    try:
        return argument != "" and check(Path(argument))
    except (OSError, ValueError):  # too long, or with characters that names cannot contain
        return False


def _outcome(file: str, work: Callable[[str], Any]) -> FileResult:
    """Return the result of a file. An error concerns this file only."""
    from optimum_htp.errors import OptimumHTPError

    try:
        return FileResult(file, work(file))
    except (OptimumHTPError, OSError) as error:
        return FileResult(file, error=error)
    except Exception as error:  # a bug of ours; the other files are still reported
        logger.debug("%r failed", file, exc_info=True)
        return FileResult(file, error=error)
