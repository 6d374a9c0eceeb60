"""Commands over many files: side by side, with a progress bar, one report a file, going on after a failure."""

from __future__ import annotations

import glob
import os
from abc import abstractmethod
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from optimum_htp.cli.base import Command, message_of
from optimum_htp.cli.display import show_error, show_json
from optimum_htp.masking import get_logger

if TYPE_CHECKING:
    from optimum_htp.hubs import HubAccess

__all__ = [
    "FilesCommand",
    "FileResult",
    "add_external_data_argument",
    "add_files_arguments",
    "add_force_argument",
    "add_hub_arguments",
    "expand",
    "hub_access",
    "is_manifest",
]

logger = get_logger(__name__)


@dataclass(frozen=True)
class FileResult:
    """What came of one file: a value, or an error."""

    file: str
    value: Any = None
    error: Exception | None = None


class FilesCommand(Command):
    """A command that takes files, folders (every `.onnx` file below them), globs, and perhaps URLs."""

    takes_urls: ClassVar[bool] = False

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments that all of them take."""
        add_files_arguments(parser, "ONNX files, folders of them, or globs.")

    def execute(self) -> None:
        """Work through the files, report on each, and exit with `exit_code`."""
        from optimum_htp.errors import ArgumentError

        files = self.named_files()
        self.partial = {"files": [], "failed": len(files)}
        if not self.takes_urls and (urls := [file for file in files if "://" in file]):
            raise ArgumentError(
                f"{urls[0]} is not here, and only `htp info` reads files where they lie. Fetch it first: `hf download "
                "ORG/REPO FILE --local-dir .`"
            )
        work = self.prepare(files)
        from optimum_htp.cli.workers import Workers

        workers = Workers(files, lambda file: _outcome(file, work), max(1, self.args.jobs), self.stop)
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
        """Return the files that the arguments stand for."""
        return expand(self.args.files)

    @abstractmethod
    def prepare(self, files: Sequence[str]) -> Callable[[str], Any]:
        """Do what all files need once; return what is done with each."""

    @abstractmethod
    def show(self, outcome: FileResult, *, several: bool) -> None:
        """Print what came of a file."""

    @abstractmethod
    def document(self, outcome: FileResult) -> dict[str, Any]:
        """Return what came of a file, for JSON."""

    def finish(self, outcomes: Sequence[FileResult]) -> dict[str, Any]:
        """Do what is left where all is well with every file; return what the JSON document says of it."""
        return {}

    def exit_code(self, outcomes: Iterable[FileResult]) -> int:
        """Return 1 where a file failed."""
        return int(any(outcome.error is not None for outcome in outcomes))

    def _as_document(self, outcome: FileResult) -> dict[str, Any]:
        if outcome.error is not None:
            document = {"file": outcome.file, "error": type(outcome.error).__name__}
            return {**document, "message": message_of(outcome.error), **_attributes(outcome.error)}
        return {"file": outcome.file, **self.document(outcome)}


def add_files_arguments(parser: ArgumentParser, kinds: str) -> None:
    """Declare the arguments of a command over files; `kinds` says what may be named."""
    parser.add_argument("files", nargs="+", metavar="FILE", help=kinds)
    parser.add_argument("--json", action="store_true", help="Print one JSON document.")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="Files to work on at a time.")


def add_force_argument(parser: Any) -> None:
    """Declare how a file of another kind is replaced; see `check_output`."""
    parser.add_argument(
        "--force",
        action="store_true",
        help="Let an output replace a file of another kind. ONNX files and files that are read are kept even so.",
    )


def expand(arguments: Sequence[str]) -> list[str]:
    """Return the files that arguments stand for, each once, in their order; a name of nothing stays as it is."""
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
    """Tell whether an argument is the path of a batch's manifest: of a JSON file, and there are no others here."""
    return argument.endswith(".json") and _is(Path.is_file, argument)


def _inside(folder: str) -> Iterator[str]:
    """Yield the ONNX files below a folder. Hidden ones are nobody's models: caches, and what killed programs left."""
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (str(Path(here, name)) for name in names if name.endswith(".onnx") and not name.startswith("."))


def _is(check: Callable[[Path], bool], argument: str) -> bool:
    try:
        return argument != "" and check(Path(argument))
    except (OSError, ValueError):  # too long for a name, or not allowed in one
        return False


def add_hub_arguments(parser: ArgumentParser) -> None:
    """Declare how to reach the Hub."""
    parser.add_argument("--cache_dir", default=None, help="Path of the Hub's cache.")
    parser.add_argument("--local-files-only", action="store_true", help="Take everything from the cache.")
    parser.add_argument("--force-download", action="store_true", help="Fetch files again although the cache has them.")


def add_external_data_argument(parser: ArgumentParser) -> None:
    """Declare the option of commands that change files in place."""
    parser.add_argument(
        "--external-data",
        action="store_true",
        help="Move the weights to FILE_data next to each file; needed where a file would have more than 2 GiB.",
    )


def hub_access(args: Namespace) -> HubAccess:
    """Return what `add_hub_arguments` declared."""
    from optimum_htp.hubs import HubAccess

    return HubAccess(
        cache_dir=args.cache_dir, local_files_only=args.local_files_only, force_download=args.force_download
    )


def _outcome(file: str, work: Callable[[str], Any]) -> FileResult:
    """Return what comes of a file. Whatever is raised for one says nothing of the others."""
    from optimum_htp.errors import OptimumHTPError

    try:
        return FileResult(file, work(file))
    except (OptimumHTPError, OSError) as error:
        return FileResult(file, error=error)
    except Exception as error:  # a bug of ours, which must not silence the report on the others
        logger.debug("%r failed", file, exc_info=True)
        return FileResult(file, error=error)


def _attributes(error: Exception) -> dict[str, Any]:
    """Return what an error says beside its message that a program can act on."""
    retry_after = getattr(error, "retry_after", None)
    return {} if retry_after is None else {"retry_after": retry_after}
