"""Commands over many files: side by side, with a progress bar, one report a file, going on after a failure."""

from __future__ import annotations

import glob
import json
import os
import sys
from abc import abstractmethod
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_htp.cli.base import Command

if TYPE_CHECKING:
    from optimum_htp.hubs import HubAccess

__all__ = ["BatchCommand", "Outcome", "add_hub_arguments", "expand", "hub_access", "printable"]


@dataclass(frozen=True)
class Outcome:
    """What came of one file: a value, or an error."""

    file: str
    value: Any = None
    error: Exception | None = None


class BatchCommand(Command):
    """A command that takes files, folders (every `.onnx` file below them), globs, and perhaps URLs."""

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments that all of them take."""
        parser.add_argument("files", nargs="+", metavar="FILE", help="ONNX files, folders of them, or globs.")
        parser.add_argument("--json", action="store_true", help="Print one JSON document.")
        parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="Files to work on at a time.")

    def execute(self) -> None:
        """Work through the files, report on each, and exit with `exit_code`."""
        files = expand(self.args.files)
        work = self.prepare(files)
        outcomes = list(_side_by_side(files, work, max(1, self.args.jobs)))
        if self.args.json:
            documents = [self._as_document(outcome) for outcome in outcomes]
            failed = sum(outcome.error is not None for outcome in outcomes)
            print(json.dumps({"files": documents, "failed": failed}, indent=2, ensure_ascii=False))
        else:
            for outcome in outcomes:
                if outcome.error is not None:
                    print(f"error: {printable(str(outcome.error))}", file=sys.stderr)
                else:
                    self.show(outcome, several=len(outcomes) > 1)
        if code := self.exit_code(outcomes):
            raise SystemExit(code)

    @abstractmethod
    def prepare(self, files: Sequence[str]) -> Callable[[str], Any]:
        """Do what all files need once; return what is done with each."""

    @abstractmethod
    def show(self, outcome: Outcome, *, several: bool) -> None:
        """Print what came of a file."""

    @abstractmethod
    def document(self, outcome: Outcome) -> dict[str, Any]:
        """Return what came of a file, for JSON."""

    def exit_code(self, outcomes: Iterable[Outcome]) -> int:
        """Return 1 where a file failed."""
        return int(any(outcome.error is not None for outcome in outcomes))

    def _as_document(self, outcome: Outcome) -> dict[str, Any]:
        if outcome.error is not None:
            return {"file": outcome.file, "error": type(outcome.error).__name__, "message": str(outcome.error)}
        return {"file": outcome.file, **self.document(outcome)}


def expand(arguments: Sequence[str]) -> list[str]:
    """Return the files that arguments stand for, each once, in their order; a name of nothing stays as it is."""
    found: list[str] = []
    for argument in arguments:
        if _is(Path.is_dir, argument):
            found += sorted(str(path) for path in Path(argument).rglob("*.onnx")) or [argument]
        elif not _is(Path.exists, argument) and "://" not in argument and glob.has_magic(argument):
            matches = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207 - may be absolute
            found += [file for match in matches for file in expand([match])] or [argument]
        else:
            found.append(argument)
    return list({file if "://" in file else os.path.normpath(file or "?"): file for file in found}.values())


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


def hub_access(args: Namespace) -> HubAccess:
    """Return what `add_hub_arguments` declared."""
    from optimum_htp.hubs import HubAccess

    return HubAccess(
        cache_dir=args.cache_dir, local_files_only=args.local_files_only, force_download=args.force_download
    )


def printable(text: str) -> str:
    """Keep a file's texts from steering the terminal."""
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)


def _side_by_side(files: Sequence[str], work: Callable[[str], Any], jobs: int) -> Iterable[Outcome]:
    from concurrent.futures import ThreadPoolExecutor

    from tqdm import tqdm

    from optimum_htp.errors import HFHubIntegrationError

    def one(file: str) -> Outcome:
        try:
            return Outcome(file, work(file))
        except (HFHubIntegrationError, OSError) as error:
            return Outcome(file, error=error if file in str(error) else type(error)(f"{file}: {error}"))

    with ThreadPoolExecutor(min(jobs, len(files))) as pool:
        hidden = True if len(files) == 1 else None  # None: shown where standard error is a terminal
        yield from tqdm(pool.map(one, files), total=len(files), unit="file", disable=hidden, leave=False)
