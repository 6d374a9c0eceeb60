"""Trials, their number, and their losses; and the table of them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import Enum

MOST_SHOWN = 20


@dataclass(frozen=True)
class Trial:
    """A trial.

    Attributes:
        name: The operation, and the fault.
        times: Number of repetitions; 0 if it could not run here.
        lost: The losses, one sentence each.
        note: Further results, or why it could not run.
    """

    name: str
    times: int
    lost: tuple[str, ...] = ()
    note: str = ""


class Form(Enum):
    """The extent of the trials: a few of each for the tests, half an hour, or all."""

    QUICK = "quick"
    USUAL = "usual"
    LONG = "long"

    @classmethod
    def add_to(cls, parser: argparse.ArgumentParser) -> None:
        """Add the options of the command."""
        group = parser.add_mutually_exclusive_group()
        group.add_argument("--quick", dest="form", action="store_const", const=cls.QUICK, help="A short form of each.")
        group.add_argument("--long", dest="form", action="store_const", const=cls.LONG, help="However long it takes.")
        parser.set_defaults(form=cls.USUAL)


Trials = Callable[[Form], Iterable[Trial]]


def table(trials: Sequence[Trial]) -> list[str]:
    """Return trials as the lines of a Markdown table, with the losses below it."""
    lines = ["| | tried | lost | |", "|---|---:|---:|---|"]
    for trial in trials:
        times = f"{trial.times:,}" if trial.times else "not here"
        lines.append(f"| {trial.name} | {times} | {len(trial.lost) if trial.times else ''} | {trial.note} |")
    for trial in trials:
        if trial.lost:
            lines += ["", f"{trial.name}:", "", *(f"- {loss}" for loss in trial.lost[:MOST_SHOWN])]
            if len(trial.lost) > MOST_SHOWN:
                lines.append(f"- and {len(trial.lost) - MOST_SHOWN} more")
    return lines


def main(description: str | None, trials: Trials) -> None:
    """Run a kind of trials as a command: `python -m benchmarks.reliability.NAME [--quick | --long] [--json]`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    Form.add_to(parser)
    parser.add_argument("--json", action="store_true", help="Print the trials as JSON.")
    arguments = parser.parse_args()
    if arguments.json:
        print(json.dumps([asdict(trial) for trial in trials(arguments.form)], indent=2))
        return
    for trial in trials(arguments.form):
        print(f"{trial.name}: {trial.times} times, {len(trial.lost)} lost. {trial.note}".rstrip(), flush=True)
        for loss in trial.lost[:MOST_SHOWN]:
            print(f"    {loss}", flush=True)
