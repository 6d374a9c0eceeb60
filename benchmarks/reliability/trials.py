"""What was tried, how often, and what was lost by it; and how a table of that is written."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

MOST_SHOWN = 20


@dataclass(frozen=True)
class Trial:
    """One thing that was tried many times.

    Attributes:
        name: What was done, and what was done to it meanwhile.
        times: How often; 0 where it could not be tried here.
        lost: What was lost, one sentence a loss.
        note: What was seen besides, or why it could not be tried.
    """

    name: str
    times: int
    lost: tuple[str, ...] = ()
    note: str = ""


Trials = Callable[[bool], Iterable[Trial]]


def table(trials: Sequence[Trial]) -> list[str]:
    """Return trials as the lines of a Markdown table, with what was lost below it."""
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
    """Be the command of a kind of trials: `python -m benchmarks.reliability.NAME [--quick] [--json]`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="A short form of each.")
    parser.add_argument("--json", action="store_true", help="Print the trials as JSON.")
    arguments = parser.parse_args()
    if arguments.json:
        print(json.dumps([asdict(trial) for trial in trials(arguments.quick)], indent=2))
        return
    for trial in trials(arguments.quick):
        print(f"{trial.name}: {trial.times} times, {len(trial.lost)} lost. {trial.note}".rstrip(), flush=True)
        for loss in trial.lost[:MOST_SHOWN]:
            print(f"    {loss}", flush=True)
